package proxy

import (
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// grant is a role as servers name it, the database that it is of, and what it allows.
type grant struct {
	role, db string
	actions  []string
}

// What the server's built-in roles of these names allow, of what is offered here.
var (
	readActions  = []string{"changeStream", "collStats", "dbStats", "find", "listCollections", "listIndexes"}
	writeActions = append(slices.Clone(readActions), "insert", "remove", "update")
	ownerActions = append(slices.Clone(writeActions), "collMod", "createCollection", "createIndex", "dropCollection", "dropIndex")
)

// grants is what the client may do, in the server's words: of one tenant's it knows the logical
// databases only.
func (c *clientConn) grants(t *routing.Table) []grant {
	who := c.who.Load()
	if who.Tenant == "" {
		all := []grant{{"readWriteAnyDatabase", "admin", ownerActions}}
		if who.Role == auth.Operator {
			all = append(all, grant{"clusterMonitor", "admin", nil})
		}
		return all
	}
	role, actions := "readWrite", writeActions
	switch who.Role {
	case auth.Reader:
		role, actions = "read", readActions
	case auth.Owner:
		role, actions = "dbOwner", ownerActions
	}
	var all []grant
	if t != nil {
		for _, name := range slices.Sorted(t.Databases) {
			all = append(all, grant{role, name, actions})
		}
	}
	return all
}

// connectionStatus names the user as the client named itself.
func (c *clientConn) connectionStatus(t *routing.Table) *wire.Buf {
	var users, roles, privileges []wire.Doc
	if who := c.who.Load(); c.in && who.User != "" {
		users = append(users, pair("user", who.User, "db", who.Source))
		for _, g := range c.grants(t) {
			roles = append(roles, pair("role", g.role, "db", g.db))
			if g.actions != nil {
				privileges = append(privileges, g.privilege())
			}
		}
	}
	return replyOf(func(d []byte) []byte {
		i, d := bsoncore.AppendDocumentElementStart(d, "authInfo")
		d = appendBatch(d, "authenticatedUsers", users)
		d = appendBatch(d, "authenticatedUserRoles", roles)
		if c.boolean("showPrivileges") {
			d = appendBatch(d, "authenticatedUserPrivileges", privileges)
		}
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		return d
	})
}

func pair(k1, v1, k2, v2 string) wire.Doc {
	return build(func(d []byte) []byte {
		return bsoncore.AppendStringElement(bsoncore.AppendStringElement(d, k1, v1), k2, v2)
	})
}

func (g grant) privilege() wire.Doc {
	db := g.db
	if db == "admin" {
		db = "" // every database
	}
	return build(func(d []byte) []byte {
		d = bsoncore.AppendDocumentElement(d, "resource", bsoncore.Document(pair("db", db, "collection", "")))
		return appendStrings(d, "actions", g.actions)
	})
}
