package routing

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/smetasc/tenantry/wire"
)

// A set that has been emptied holds only what it gets after that.
func TestTenantSetEmptied(t *testing.T) {
	var s, o tenantSet
	s.known, o.known = true, true
	for _, name := range strings.Fields("a b c d e f") {
		s.add(wire.StringValue(name))
	}
	s.keep(wire.StringValue("z"))
	for _, name := range strings.Fields("p q r s t u") {
		o.add(wire.StringValue(name))
	}
	s.join(&o, false)
	for i, v := range s.values() {
		if !v.Equal(o.at(i)) {
			t.Errorf("value %d is %s, want %s", i, v.Data, o.at(i).Data)
		}
	}
}

// Many values are told apart as few are, and in no time that grows with their square.
func TestTenantSetOfMany(t *testing.T) {
	var list []string
	for i := range 30_000 {
		list = append(list, fmt.Sprintf("%d,%d.0", i, i))
	}
	all := strings.Join(list, ",")
	r, err := request(t, `{"find":"orders","filter":{"tenantId":{"$in":["acme",`+all+`]},"$and":[{"tenantId":{"$in":[`+all+`,"acme"]}}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	d := world(t, nil).Route(r)
	if d.Action != Scatter || len(d.Only) != 30_001 {
		t.Errorf("%s with %d tenants", d.Action, len(d.Only))
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A filter that asks for countless variables is no filter that says whose documents it is about.
func TestCountlessVariables(t *testing.T) {
	asks := strings.Repeat(`{"$expr":{"$eq":["$tenantId","$$x"]}},`, maxLooked)
	for more, known := range map[string]bool{"": true, `{"$expr":{"$eq":["$tenantId","$$x"]}},`: false} {
		table := world(t, func(*Spec) {})
		r, _ := request(t, `{"find":"orders","let":{"x":"acme"},"filter":{"$or":[`+asks+more+`{"tenantId":"acme"}]}}`)
		var x extractor
		x.of(r, table.byName.find([]byte("app")).collection(r.Coll()), wire.Value{})
		var s tenantSet
		q, _ := r.value(fFilter).Doc()
		if x.filter(&s, q, 0); s.known != known {
			t.Errorf("%d variables: known is %v", strings.Count(asks+more, "$$x"), s.known)
		}
	}
}
