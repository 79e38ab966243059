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

// tolerated is all that the proxy may refuse. Each entry is a promise not kept yet, but for the
// last ones, which docs/differences.md keeps; take out what the proxy has learnt to serve.
var tolerated = []refusal{
	{"find", 20, "find without _id over the databases of several tenants"},
	{"count", 20, "over the databases of several tenants"},
	{"distinct", 20, "over the databases of several tenants"},
	{"aggregate", 20, "over the databases of several tenants"},
	{"aggregate", 20, "concerns every tenant"},
	{"aggregate", 20, "for several tenants is not offered"},
	{"aggregate", 20, "would join collections of different databases"},
	{"aggregate", 20, "reads every tenant"},
	{"insert", 20, "a batch with documents of several tenants"},
	{"update", 20, "an update that is not of one document by _id"},
	{"update", 20, "an update by a pipeline is not offered"},
	{"update", 20, "a batch of upserts without the tenant"},
	{"delete", 20, "a delete that is not of one document by _id"},
	{"findAndModify", 20, "findAndModify without _id"},
	{"findAndModify", 20, "an update by a pipeline is not offered"},
	{"bulkWrite", 20, "the bulkWrite command is not offered"},
	{"drop", 20, "drop is not offered"},
	{"collMod", 20, "collMod is not offered"},
	{"update", 20, "the documents are in the databases of several tenants"},
	{"delete", 20, "the documents are in the databases of several tenants"},
	{"findAndModify", 20, "the documents are in the databases of several tenants"},

	// What stays refused.
	{"", 66, "would give a document to a tenant whose database is another"},
	{"", 66, "the replacement lacks the tenant field"},
	{"", 66, "would change the tenant field"},
	{"", 61, "says no tenant for a new one"},
	{"", 61, "would lack the tenant field"},
	{"", 263, "can not look on several clusters"},
	{"", 263, "a transaction can not span clusters"},
	{"", 2, "may not hold an array"},
	{"insert", 2, "would belong to several tenants"},
}

// refused is how the proxy has said no to a command, having done nothing of it, in a way that is
// tolerated; else nil.
func (r *Routing) refused(command, reply bson.D) *refusal {
	if r.Mode == "disabled" {
		return nil
	}
	e := reply
	if errs := array(get(reply, "writeErrors")); len(errs) == 1 && get(reply, "n") == int32(0) {
		e = doc(errs[0]) // a batch of one is refused as a server would
	}
	code, _ := get(e, "code").(int32)
	msg, _ := get(e, "errmsg").(string)
	if !strings.HasPrefix(msg, "tenantry: ") {
		return nil
	}
	for i := range tolerated {
		t := &tolerated[i]
		if t.code == code && (t.command == "" || t.command == name(command)) && strings.Contains(msg, t.phrase) {
			return t
		}
	}
	return nil
}
