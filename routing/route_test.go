package routing

import (
	"strconv"
	"testing"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// TestRows: no command can write without the table saying where its tenant is.
func TestRows(t *testing.T) {
	for c := range Commands {
		if c.Access == Write && c.Route == ByTenant && c.Tenant.Kind == NoTenant {
			t.Errorf("%s writes and says not where its tenant is", c.Name)
		}
		if c.Route == Refused && c.Refuse.Text == "" {
			t.Errorf("%s is refused without a text", c.Name)
		}
		if c.Bound == BoundAllow && c.Access == Server {
			t.Errorf("%s is the server's and allowed to bound connections", c.Name)
		}
	}
}

// Each tenant that is in no entry is looked for before its documents are written.
func TestEachIsLookedFor(t *testing.T) {
	table := world(t, func(s *Spec) { s.LookUp = true })
	r, _ := request(t, `{"insert":"orders","documents":[{"tenantId":"ghost"},{"tenantId":"fresh"}]}`)
	for _, want := range []string{"ghost", "fresh"} {
		d := table.Route(r)
		if name, _ := d.Held.Str(); d.Action != Hold || string(name) != want {
			t.Fatalf("%s for %q, want to hold for %s", d.Action, name, want)
		}
		r.Unlisted = append(r.Unlisted, d.Held)
	}
	if d := table.Route(r); d.Action != Forward {
		t.Errorf("then: %s", told(d))
	}
}

// A command of countless unknown fields is refused before they are compared with one another.
func TestStrangeFields(t *testing.T) {
	i, d := bsoncore.AppendDocumentStart(nil)
	d = bsoncore.AppendInt32Element(d, "nonsense", 1)
	for n := range maxStrange + 1 {
		d = bsoncore.AppendNullElement(d, strconv.Itoa(n))
	}
	d = bsoncore.AppendStringElement(d, "$db", "app")
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	var r Request
	if err := r.Parse(&wire.Message{Frame: d, Body: d}); err == nil || err.Code != wire.UnknownField {
		t.Errorf("got %v", err)
	}
	if r.unknown == nil {
		t.Error("no field is unknown")
	}
}
