package work

import (
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// refusal is something that the proxy says no to where a server would have served it.
type refusal struct {
	command string // "" is any
	code    int32
	phrase  string // in its text
}

func (r *refusal) String() string { return fmt.Sprintf("%s %d %q", r.command, r.code, r.phrase) }

// tolerated is all that the proxy may refuse: what docs/differences.md keeps.
var tolerated = []refusal{
	{"", 66, "would give a document to a tenant whose database is another"},
	{"", 66, "the replacement lacks the tenant field"},
	{"", 66, "would change the tenant field"},
	{"", 66, "would compute the tenant field"},
	{"", 61, "says no tenant for a new one"},
	{"", 61, "would lack the tenant field"},
	{"", 115, "tell no collation keys"},
	{"", 263, "can not look on several clusters"},
	{"", 263, "a transaction can not span clusters"},
	{"", 2, "may not hold an array"},
	{"", 2, "would belong to several tenants"},
	{"", 20, rejection},
	{"", 115, rejection},
	{"aggregate", 115, "which only a $lookup can whose array is no path"},
	{"aggregate", 20, "which only a $lookup can whose array is no path"},
	{"aggregate", 20, "$documents joined with a collection whose tenants have databases of their own"},
	{"distinct", 20, "is not offered of a view, or under a collation"},
	{"distinct", 115, "is not offered of a view, or under a collation"},
	{"aggregate", 20, "which the view's pipeline makes or may make"},
	{"aggregate", 115, "is not offered of what the databases of several tenants bring together"},
	{"aggregate", 115, "would not be where the tenant's are"},
}

// refusals are what the proxy has said no to in a way that is tolerated: the whole command, or some
// of its writes.
type refusals struct {
	whole  *refusal
	writes map[int]*refusal // by their places in the batch
}

func (no *refusals) any() bool { return no.whole != nil || len(no.writes) > 0 }

// refused reads the refusals out of the reply to a command.
func (r *Routing) refused(command, reply bson.D) refusals {
	no := refusals{writes: map[int]*refusal{}}
	if r.Mode == "disabled" {
		return no
	}
	no.whole = tolerates(command, reply)
	if no.whole != nil && no.whole.phrase == rejection && r.Without != "reject" {
		no.whole = nil
	}
	for _, e := range failures(reply) {
		if t := tolerates(command, e.doc); t != nil {
			no.writes[e.at] = t
		}
	}
	return no
}

// tolerates finds what is tolerated that an error says.
func tolerates(command, e bson.D) *refusal {
	code, _ := get(e, "code").(int32)
	msg, _ := get(e, "errmsg").(string)
	if !strings.HasPrefix(msg, "tenantry: ") {
		return nil
	}
	for i := range tolerated {
		t := &tolerated[i]
		if t.code == code && (t.command == "" || t.command == name(inner(command))) && strings.Contains(msg, t.phrase) {
			return t
		}
	}
	return nil
}
