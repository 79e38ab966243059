package main

import (
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/smetasc/tenantry/wire"
)

// canned is a server that answers with what it has made beforehand. A find or getMore says by its
// batchSize how many bytes it wants; one of the collection "slow" is answered after slowFor, a find of "timed"
// with the times that the members of a replica set tell.
type canned struct {
	mu   sync.RWMutex      // guards the following
	made map[string][]byte // by question
}

// question is what an answer depends on.
type question struct {
	command, db, coll []byte
	size              int64
}

// slowFor is how long a find of the collection "slow" takes.
const slowFor = 20 * time.Millisecond

func newCanned() *canned { return &canned{made: map[string][]byte{}} }

func (s *canned) serve(nc net.Conn) error {
	in, out := newFramer(nc), make([]byte, 0, readSize)
	for {
		_, front, err := in.skip()
		if err != nil {
			return err
		}
		if h := wire.ReadHeader(front); h.OpCode == wire.OpQuery { // a monitor's first hello
			_, err = nc.Write(wire.AppendReply(out[:0], 1, h.RequestID, helloDoc(), 0))
		} else {
			err = s.respond(nc, front, out, h.RequestID)
		}
		if err != nil {
			return err
		}
	}
}

func (s *canned) respond(nc net.Conn, front, scratch []byte, to int32) error {
	body, err := bodyOf(front)
	if err != nil {
		return err
	}
	q := ask(body)
	if string(q.coll) == "slow" {
		time.Sleep(slowFor)
	}
	return send(nc, s.answer(&q), scratch, to)
}

// send writes a prepared message as the answer to a request. A small one is copied, so that it goes
// out in one plain write; of a large one only the header is.
func send(nc net.Conn, answer, scratch []byte, to int32) error {
	if len(answer) <= cap(scratch) {
		out := append(scratch[:0], answer...)
		wire.SetIDs(out, 1, to)
		_, err := nc.Write(out)
		return err
	}
	head := append(scratch[:0], answer[:wire.HeaderLen]...)
	wire.SetIDs(head, 1, to)
	parts := net.Buffers{head, answer[wire.HeaderLen:]}
	_, err := parts.WriteTo(nc)
	return err
}

// ask reads what a command wants.
func ask(body wire.Doc) (q question) {
	for it := body.Iter(); it.Next(); {
		switch key := string(it.Key); {
		case q.command == nil:
			q.command = it.Key
			q.coll, _ = it.Value.Str()
		case key == "collection":
			q.coll, _ = it.Value.Str()
		case key == "batchSize":
			q.size, _ = it.Value.Int()
		case key == "$db":
			q.db, _ = it.Value.Str()
		}
	}
	return q
}

// answer finds the answer to a command, and makes it where it is the first of its kind.
func (s *canned) answer(q *question) []byte {
	var room [256]byte
	key := append(append(append(room[:0], q.command...), 0), q.db...)
	key = append(append(append(key, '.'), q.coll...), 0)
	key = strconv.AppendInt(key, q.size, 10)
	s.mu.RLock()
	a := s.made[string(key)]
	s.mu.RUnlock()
	if a == nil {
		a = q.make()
		s.mu.Lock()
		s.made[string(key)] = a
		s.mu.Unlock()
	}
	return a
}

func (q *question) make() []byte {
	ns := string(q.db) + "." + string(q.coll)
	switch string(q.command) {
	case "hello", "isMaster", "ismaster":
		return message(helloDoc())
	case "insert":
		return wroteReply(1)
	case "find":
		id, told := int64(0), untimed
		if string(q.coll) == "timed" {
			told = timed
		}
		if string(q.coll) == "order_items" { // the ones that are read by getMore
			id = cursorID
		}
		return batchReply("firstBatch", ns, id, int(q.size), told)
	case "listCollections":
		return listReply(string(q.db))
	case "listIndexes": // asked for where connections are kept within their rows
		return batchReply("firstBatch", ns, 0, 0, untimed)
	case "getMore":
		return batchReply("nextBatch", ns, cursorID, int(q.size), untimed)
	}
	return okReply()
}
