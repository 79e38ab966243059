package wiretest

import (
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// Role is what a server is in its deployment.
type Role int

// The roles that hello tells. A RecoveringMember is neither primary nor secondary.
const (
	Standalone Role = iota
	Primary
	Secondary
	RecoveringMember
	Mongos
)

// Option is a property of a server that stays.
type Option func(*options)

type options struct {
	role        Role
	setName     string
	hosts       []string
	inMemory    bool
	addr        string
	compressors []wire.Compressor
	serviceID   *bson.ObjectID
	wireVersion int32
	enforce     bool
	stored      bool
	handler     func(Command) Reply
	hello       bson.D
}

// As gives the server its first role; the default is Standalone.
func As(r Role) Option { return func(o *options) { o.role = r } }

// Member makes the server name a set and its members, itself if there are no hosts. For a set
// whose members know each other see [NewSet].
func Member(set string, hosts ...string) Option {
	return func(o *options) {
		o.setName, o.hosts = set, hosts
		if o.role == Standalone {
			o.role = Primary
		}
	}
}

// InMemory makes the server listen on no socket: [Server.DialContext] reaches it over net.Pipe,
// under a made-up address.
func InMemory() Option { return func(o *options) { o.inMemory = true } }

// Address sets the address to listen on in place of a free port, or an in-memory server's name.
func Address(addr string) Option { return func(o *options) { o.addr = addr } }

// Compressors are those that the server agrees to. Without, a compressed message is refused.
func Compressors(c ...wire.Compressor) Option { return func(o *options) { o.compressors = c } }

// LoadBalanced makes hello carry a serviceId where the client asks for loadBalanced.
func LoadBalanced() Option {
	id := bson.NewObjectID()
	return func(o *options) { o.serviceID = &id }
}

// WireVersion sets the maximum; the default is 25, that of 8.0.
func WireVersion(v int32) Option { return func(o *options) { o.wireVersion = v } }

// Enforce turns on what real servers insist on: writes only on a primary and reads on a secondary
// only with a read preference (10107, 13435, with topologyVersion), no duplicate top-level field
// (40413), no message, command or batch above the limits that hello tells (the connection is closed, 10334, 16),
// txnNumber not with multi: true (72) nor on a standalone (20), a repeated statement
// answered from history, transactions (251, 225, 256), a $clusterTime of its own making (197, 211).
// Replies carry $clusterTime and operationTime then.
func Enforce() Option { return func(o *options) { o.enforce = true } }

// Stored gives the server a [store], which answers what no script does.
func Stored() Option { return func(o *options) { o.stored = true } }

// Handle sets the script; see [Server.Handle].
func Handle(h func(Command) Reply) Option { return func(o *options) { o.handler = h } }

// HelloFields are added to hello's answer, in place of fields of the same name.
func HelloFields(d bson.D) Option { return func(o *options) { o.hello = d } }
