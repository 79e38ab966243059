package work

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// client sends commands as they are, where a driver would add, repeat and hide.
type client struct {
	nc net.Conn
	id int32
}

const (
	opMsg      = 2013
	headerLen  = 16
	moreToCome = 2 // the flag of a message that is not replied to
	doLimit    = 30 * time.Second
)

func dial(address string) (*client, error) {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &client{nc: nc}, nil
}

// sequences are the arrays that drivers send beside the command's document.
var sequences = []string{"documents", "updates", "deletes"}

// do sends a command and returns its reply.
func (c *client) do(command bson.D, sections bool) (bson.D, error) {
	frame, err := c.frame(command, sections)
	if err != nil {
		return nil, err
	}
	if err := c.nc.SetDeadline(time.Now().Add(doLimit)); err != nil {
		return nil, err
	}
	if _, err := c.nc.Write(frame); err != nil {
		return nil, err
	}
	return c.read()
}

// tell sends a command of which no reply is wanted.
func (c *client) tell(command bson.D, sections bool) error {
	frame, err := c.frame(command, sections)
	if err != nil {
		return err
	}
	frame[headerLen] = moreToCome
	if err := c.nc.SetDeadline(time.Now().Add(doLimit)); err != nil {
		return err
	}
	_, err = c.nc.Write(frame)
	return err
}

func (c *client) frame(command bson.D, sections bool) ([]byte, error) {
	c.id++
	out := make([]byte, headerLen+4, 512)
	binary.LittleEndian.PutUint32(out[4:], uint32(c.id))
	binary.LittleEndian.PutUint32(out[12:], opMsg)
	body := slices.Clone(command)
	var batch []byte
	for i, e := range body {
		a, isArray := e.Value.(bson.A)
		if !sections || !isArray || !slices.Contains(sequences, e.Key) || len(a) == 0 {
			continue
		}
		body = slices.Delete(body, i, i+1)
		batch = append([]byte{1, 0, 0, 0, 0}, e.Key...)
		batch = append(batch, 0)
		for _, d := range a {
			raw, err := bson.Marshal(d)
			if err != nil {
				return nil, err
			}
			batch = append(batch, raw...)
		}
		binary.LittleEndian.PutUint32(batch[1:], uint32(len(batch)-1))
		break
	}
	raw, err := bson.Marshal(body)
	if err != nil {
		return nil, err
	}
	out = append(append(append(out, 0), raw...), batch...)
	binary.LittleEndian.PutUint32(out, uint32(len(out)))
	return out, nil
}

func (c *client) read() (bson.D, error) {
	var header [headerLen + 5]byte // with the flags and the section's kind
	if _, err := io.ReadFull(c.nc, header[:]); err != nil {
		return nil, err
	}
	n := int(binary.LittleEndian.Uint32(header[:]))
	if op := binary.LittleEndian.Uint32(header[12:]); op != opMsg || n < len(header)+5 || n > 64<<20 {
		return nil, fmt.Errorf("a reply of op code %d with %d bytes", op, n)
	}
	if to := int32(binary.LittleEndian.Uint32(header[8:])); to != c.id {
		return nil, fmt.Errorf("a reply to message %d, want %d", to, c.id)
	}
	body := make([]byte, n-len(header))
	if _, err := io.ReadFull(c.nc, body); err != nil {
		return nil, err
	}
	var reply bson.D
	return reply, bson.Unmarshal(body, &reply)
}
