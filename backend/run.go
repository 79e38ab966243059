package backend

import (
	"context"
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Run sends one command to a server that takes writes and returns its reply, in memory of the
// caller's own. A reply that says no is returned as a *[CommandError]. When ctx ends the
// connection is given up; the command may have run.
func (c *Cluster) Run(ctx context.Context, db string, cmd wire.Doc) (wire.Doc, error) {
	conn, err := c.Acquire(ctx, Select{Write: true}, 0)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	stop := context.AfterFunc(ctx, conn.Interrupt)
	reply, err := conn.run(withDB(cmd, db))
	if !stop() { // Interrupt has begun: it must not meet the next one who acquires
		conn.broken.Store(true)
	}
	var failed *Error
	if errors.As(err, &failed) && ctx.Err() != nil {
		failed.Err = fmt.Errorf("%w: %w", ctx.Err(), failed.Err)
	}
	return reply, err
}

func (c *Conn) run(cmd wire.Doc) (wire.Doc, error) {
	req := wire.NewMessage(0, 0, 0, cmd)
	defer req.Free()
	frame, err := c.RoundTrip(req, true)
	if err != nil {
		return nil, err
	}
	defer frame.Free()
	var m wire.Message
	if err := m.Parse(frame.B); err != nil {
		return nil, c.fail(true, err)
	}
	reply := append(wire.Doc(nil), m.Body...)
	if err := commandError(reply); err != nil {
		c.Observe(reply)
		return nil, err
	}
	return reply, nil
}

// withDB is the command with the field that names its database.
func withDB(cmd wire.Doc, db string) wire.Doc {
	if _, there := cmd.Lookup("$db"); there || len(cmd) < 5 {
		return cmd
	}
	d := append(make([]byte, 0, len(cmd)+len(db)+16), cmd[:len(cmd)-1]...)
	d = bsoncore.AppendStringElement(d, "$db", db)
	d, _ = bsoncore.AppendDocumentEnd(d, 0)
	return d
}

// commandError reads a reply that says no; nil if it says ok.
func commandError(reply wire.Doc) error {
	if ok, _ := reply.Lookup("ok"); ok.True() {
		return nil
	}
	e := &CommandError{}
	it := reply.Iter()
	for it.Next() {
		switch string(it.Key) {
		case "code":
			n, _ := it.Value.Int()
			e.Code = int32(n)
		case "codeName":
			s, _ := it.Value.Str()
			e.CodeName = string(s)
		case "errmsg":
			s, _ := it.Value.Str()
			e.Message = string(s)
		case "errorLabels":
			e.Labels = labels(it.Value)
		}
	}
	return e
}

func labels(v wire.Value) []string {
	var list []string
	array, _ := v.Array()
	it := array.Iter()
	for it.Next() {
		if s, ok := it.Value.Str(); ok {
			list = append(list, string(s))
		}
	}
	return list
}
