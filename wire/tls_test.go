package wire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// tlsPair are both ends of a TLS connection whose handshake is over; far is the server's.
func tlsPair(t *testing.T) (near, far *tls.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a, b := tcpPair(t)
	near = tls.Client(&diverted{Conn: a}, &tls.Config{InsecureSkipVerify: true})
	far = tls.Server(b, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	done := make(chan error, 1)
	go func() { done <- far.Handshake() }()
	if err := errors.Join(near.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// TestTLSAwaitHoldsNothing: as on a plain connection, also between messages that came together.
func TestTLSAwaitHoldsNothing(t *testing.T) {
	near, far := tlsPair(t)
	c := NewConn(far)
	all, stream := messages(t)
	sent := make(chan error, 1)
	go func() {
		_, err := near.Write(stream)
		sent <- errors.Join(err, near.Close())
	}()
	readAll(t, c, all)
	if c.Buffered() {
		t.Error("a buffer is held after the last message")
	}
	if err := c.Await(); err != io.EOF || c.Buffered() {
		t.Errorf("%v; a buffer held: %v", err, c.Buffered())
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestTLSLull: a lull ends a wait also in the middle of a record, of which nothing is lost.
func TestTLSLull(t *testing.T) {
	near, far := tlsPair(t)
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}}))
	record := recordOf(t, near, m)
	c := NewConn(far)
	const after = 30 * time.Millisecond
	for _, part := range [][]byte{nil, record[:3], record[3:20]} {
		near.NetConn().Write(part)
		if err := c.EndLull(time.Now(), after); err != nil {
			t.Fatal(err)
		}
		if err := c.Await(); !errors.Is(err, ErrLull) {
			t.Fatalf("after %d bytes of a record: %v", len(part), err)
		}
	}
	near.NetConn().Write(record[20:])
	readAll(t, c, [][]byte{m})
	half := recordOf(t, near, m[:HeaderLen+1])
	rest := recordOf(t, near, m[HeaderLen+1:])
	if err := c.EndLull(time.Now(), after); err != nil {
		t.Fatal(err)
	}
	near.NetConn().Write(half)
	if err := c.Await(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*after, func() { near.NetConn().Write(rest) })
	b, err := c.ReadMessage(MaxMessage)
	if err != nil || !bytes.Equal(b.B, m) {
		t.Fatalf("a message that had begun: %v", err)
	}
	b.Free()
}

// diverted is a connection whose writes can be kept.
type diverted struct {
	net.Conn
	kept []byte
	keep bool
}

func (d *diverted) Write(b []byte) (int, error) {
	if !d.keep {
		return d.Conn.Write(b)
	}
	d.kept = append(d.kept, b...)
	return len(b), nil
}

// recordOf is what the connection would send for b.
func recordOf(t *testing.T, c *tls.Conn, b []byte) []byte {
	t.Helper()
	d := c.NetConn().(*diverted)
	d.keep = true
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	record := d.kept
	d.keep, d.kept = false, nil
	return record
}

// TestClientHello: who speaks TLS to a connection without is told from every message.
func TestClientHello(t *testing.T) {
	near, far := tcpPair(t)
	go tls.Client(near, &tls.Config{InsecureSkipVerify: true}).Handshake()
	c := NewConn(far)
	if _, err := c.ReadMessage(MaxMessage); !errors.Is(err, ErrTLS) {
		t.Errorf("a handshake: %v", err)
	}
	c.Release()
	near.Close()
	// Messages that begin with the same bytes.
	for _, op := range []OpCode{OpMsg, OpCompressed} {
		b := make([]byte, 1<<16|3<<8|22)
		Header{int32(len(b)), 0x0101, 0x0303_0303, op}.Put(b)
		if !isClientHello(b) {
			t.Fatal("it has to look like one")
		}
		readAll(t, NewConn(&chunked{b: b, size: len(b)}), [][]byte{b})
	}
}
