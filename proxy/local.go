package proxy

import (
	"runtime"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// noAuthentication is what a listener without authentication says to who tries.
const noAuthentication = "this listener has no authentication; leave the user out of the connection string"

// answer serves the commands that the proxy answers itself: who it is, and small honest subsets of
// what servers tell about themselves, whose real answers would name databases and hosts.
func (c *clientConn) answer(t *routing.Table, d *routing.Decision) *wire.Buf {
	switch c.req.Cmd.Name {
	case "hello", "isMaster":
		return c.helloCommand(t)
	case "saslStart", "saslContinue", "authenticate":
		return c.logIn()
	case "logout":
		return c.logOut()
	case "startSession":
		return c.startSession(t)
	case "connectionStatus":
		return c.connectionStatus(t)
	case "whatsmyuri":
		return replyOf(func(d []byte) []byte {
			return bsoncore.AppendStringElement(d, "you", c.you())
		})
	case "isdbgrid":
		return replyOf(func(d []byte) []byte {
			d = bsoncore.AppendInt32Element(d, "isdbgrid", 1)
			return bsoncore.AppendStringElement(d, "hostname", c.advertised())
		})
	case "listCommands":
		return c.listCommands()
	case "getParameter":
		return c.getParameter()
	case "getLog":
		return c.getLog()
	case "getCmdLineOpts":
		return replyOf(func(d []byte) []byte {
			i, d := bsoncore.AppendArrayElementStart(d, "argv")
			d = bsoncore.AppendStringElement(d, "0", "tenantry")
			d, _ = bsoncore.AppendArrayEnd(d, i)
			d = bsoncore.AppendDocumentElement(d, "parsed", bsoncore.Document(build(func(d []byte) []byte { return d })))
			return d
		})
	case "serverStatus", "hostInfo", "connPoolStats":
		return c.status()
	case "listDatabases":
		return c.boundDatabases(t, d)
	case "getDiagnosticData":
		return replyOf(func(d []byte) []byte { return appendSub(d, "data", func(d []byte) []byte { return d }) })
	case "getTrafficRecordingStatus":
		return replyOf(func(d []byte) []byte {
			return appendSub(d, "trafficRecording", func(d []byte) []byte { return bsoncore.AppendBooleanElement(d, "running", false) })
		})
	case "tenantryExplain":
		return c.explain(t)
	}
	return okReply()
}

// appendStrings appends an array of strings.
func appendStrings(d []byte, key string, list []string) []byte {
	i, d := bsoncore.AppendArrayElementStart(d, key)
	for n, text := range list {
		d = bsoncore.AppendStringElement(d, itoa(n), text)
	}
	d, _ = bsoncore.AppendArrayEnd(d, i)
	return d
}

func (c *clientConn) startSession(t *routing.Table) *wire.Buf {
	id := randomUUID()
	return replyOf(func(d []byte) []byte {
		d = bsoncore.AppendDocumentElement(d, "id", sessionDoc(id))
		return bsoncore.AppendInt32Element(d, "timeoutMinutes", c.srv.facts(t).SessionMinutes)
	})
}

func (c *clientConn) listCommands() *wire.Buf {
	return replyOf(func(d []byte) []byte {
		i, d := bsoncore.AppendDocumentElementStart(d, "commands")
		for cmd := range routing.Commands {
			if !cmd.Offered() {
				continue
			}
			j, e := bsoncore.AppendDocumentElementStart(d, cmd.Name)
			e = bsoncore.AppendStringElement(e, "help", "")
			d, _ = bsoncore.AppendDocumentEnd(e, j)
		}
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		return d
	})
}

func (c *clientConn) getParameter() *wire.Buf {
	known := false
	text, _ := c.req.Value.Str()
	every := string(text) == "*"
	asks := func(name string) bool {
		_, ok := c.req.Field(name)
		return ok || every
	}
	body := build(func(d []byte) []byte {
		if asks("featureCompatibilityVersion") {
			known = true
			i, e := bsoncore.AppendDocumentElementStart(d, "featureCompatibilityVersion")
			e = bsoncore.AppendStringElement(e, "version", versionOf(c.srv.facts(c.srv.opts.Router.Current()).MaxWire))
			d, _ = bsoncore.AppendDocumentEnd(e, i)
		}
		if asks("authenticationMechanisms") {
			known = true
			d = appendStrings(d, "authenticationMechanisms", c.mechanisms())
		}
		return appendOK(d)
	})
	if !known {
		return c.refuse(wire.Errorf(wire.InvalidOptions, "no such parameter here; offered are featureCompatibilityVersion and authenticationMechanisms"))
	}
	return wire.NewMessage(0, 0, 0, body)
}

// versionOf is the oldest release with the wire version (wire version tables of the drivers).
func versionOf(wireVersion int32) string {
	switch {
	case wireVersion >= 25:
		return "8.0"
	case wireVersion >= 21:
		return "7.0"
	case wireVersion >= 17:
		return "6.0"
	case wireVersion >= 13:
		return "5.0"
	}
	return "4.4"
}

func (c *clientConn) getLog() *wire.Buf {
	which, _ := c.req.Value.Str()
	if string(which) == "*" {
		return replyOf(func(d []byte) []byte {
			i, d := bsoncore.AppendArrayElementStart(d, "names")
			d = bsoncore.AppendStringElement(d, "0", "startupWarnings")
			d, _ = bsoncore.AppendArrayEnd(d, i)
			return d
		})
	}
	if string(which) != "startupWarnings" {
		return c.refuse(wire.Errorf(wire.OperationFailed, "no log named %q here", which))
	}
	return replyOf(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "totalLinesWritten", 0)
		return appendBatch(d, "log", nil)
	})
}

func (c *clientConn) status() *wire.Buf {
	up := time.Since(c.srv.started)
	return replyOf(func(d []byte) []byte {
		switch c.req.Cmd.Name {
		case "hostInfo":
			i, d := bsoncore.AppendDocumentElementStart(d, "system")
			d = bsoncore.AppendDateTimeElement(d, "currentTime", time.Now().UnixMilli())
			d = bsoncore.AppendInt32Element(d, "numCores", int32(runtime.NumCPU()))
			d, _ = bsoncore.AppendDocumentEnd(d, i)
			return d
		case "connPoolStats":
			return bsoncore.AppendInt32Element(d, "numClientConnections", int32(c.srv.Clients()))
		}
		d = bsoncore.AppendStringElement(d, "process", "mongos")
		d = bsoncore.AppendStringElement(d, "tenantry", c.srv.opts.Version)
		d = bsoncore.AppendDoubleElement(d, "uptime", up.Seconds())
		d = bsoncore.AppendInt64Element(d, "uptimeMillis", up.Milliseconds())
		d = bsoncore.AppendDateTimeElement(d, "localTime", time.Now().UnixMilli())
		i, d := bsoncore.AppendDocumentElementStart(d, "connections")
		d = bsoncore.AppendInt32Element(d, "current", int32(c.srv.Clients()))
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		return d
	})
}

// boundDatabases is listDatabases of a bound connection: the logical databases, without sizes.
func (c *clientConn) boundDatabases(t *routing.Table, _ *routing.Decision) *wire.Buf {
	filter, only := c.databaseFilter(t)
	if filter != nil && only == "" {
		return c.refuse(noFilter())
	}
	var rows []*databaseRow
	for name := range t.Databases {
		if filter == nil || name == only {
			rows = append(rows, &databaseRow{name: name})
		}
	}
	return c.databasesReply(rows)
}

// explain tells where a command would go, and why.
func (c *clientConn) explain(t *routing.Table) *wire.Buf {
	cmd, ok := c.req.Value.Doc()
	if !ok {
		return c.refuse(wire.Errorf(wire.FailedToParse, "tenantryExplain needs a command as a document"))
	}
	if t == nil {
		return c.refuse(wire.Errorf(wire.HostUnreachable, "the routes have not been read yet"))
	}
	doc, err := routing.Explain(t, cmd, string(c.req.DB))
	if err != nil {
		return c.refuse(err)
	}
	return wire.NewMessage(0, 0, 0, build(func(d []byte) []byte {
		return appendOK(append(d, doc[4:len(doc)-1]...))
	}))
}
