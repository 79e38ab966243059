package work

import (
	"reflect"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"pgregory.net/rapid"
)

// A program that was kept must be the one that failed.
func TestTextFormKeepsPrograms(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		p := Draw().Draw(r, "program")
		p.Note = "one line\nand another\n"
		q, err := Parse(strings.NewReader(p.String()))
		if err != nil {
			r.Fatal(err)
		}
		if !reflect.DeepEqual(p, q) {
			r.Fatalf("read again it is\n%s", q)
		}
	})
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	for _, line := range []string{"nonsense", "x1 {}", "t {}", `{"find": `, "tenant acme {oid} home"} {
		if _, err := Parse(strings.NewReader("mode mixed\n\n" + line)); err == nil || !strings.Contains(err.Error(), "line 3") {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// The comparison may leave open only what servers leave open.
func TestOrder(t *testing.T) {
	a, b := bson.D{{Key: "_id", Value: 1}, {Key: "n", Value: 1}}, bson.D{{Key: "_id", Value: 2}, {Key: "n", Value: 1}}
	c := bson.D{{Key: "_id", Value: 3}, {Key: "n", Value: 2}}
	for _, test := range []struct {
		command   bson.D
		want, got bson.A
		differ    bool
	}{
		{bson.D{{Key: "find", Value: "c"}}, bson.A{a, b}, bson.A{b, a}, false},
		{bson.D{{Key: "find", Value: "c"}}, bson.A{a, b}, bson.A{a, a}, true},
		{bson.D{{Key: "find", Value: "c"}, {Key: "sort", Value: is("_id", 1)}}, bson.A{a, b}, bson.A{b, a}, true},
		{bson.D{{Key: "find", Value: "c"}, {Key: "sort", Value: is("n", 1)}}, bson.A{a, b, c}, bson.A{b, a, c}, false},
		{bson.D{{Key: "find", Value: "c"}, {Key: "sort", Value: is("n", 1)}}, bson.A{a, b, c}, bson.A{c, b, a}, true},
		{bson.D{{Key: "aggregate", Value: "c"}, {Key: "pipeline", Value: bson.A{is("$sort", is("_id", 1)), is("$match", bson.D{})}}}, bson.A{a, b}, bson.A{b, a}, true},
		{bson.D{{Key: "aggregate", Value: "c"}, {Key: "pipeline", Value: bson.A{is("$sort", is("_id", 1)), is("$group", is("_id", "$n"))}}}, bson.A{a, b}, bson.A{b, a}, false},
	} {
		p := pair{line: Line{Command: test.command}, order: orderOf(test.command), want: half{docs: test.want}, got: half{docs: test.got}}
		if err := p.compare(); (err != nil) != test.differ {
			t.Errorf("%s: %v", text(test.command), err)
		}
	}
}

// Refused is what the list says, and nothing where no tenant is isolated.
func TestRefused(t *testing.T) {
	insert := bson.D{{Key: "insert", Value: "orders"}}
	no := bson.D{{Key: "ok", Value: 0.0}, {Key: "code", Value: int32(20)}, {Key: "errmsg", Value: "tenantry: insert names tenants whose databases differ: a batch with documents of several tenants in …"}}
	other := bson.D{{Key: "ok", Value: 0.0}, {Key: "code", Value: int32(20)}, {Key: "errmsg", Value: "tenantry: something else"}}
	mixed, disabled := Routing{Mode: "mixed"}, Routing{Mode: "disabled"}
	if mixed.refused(insert, no) == nil {
		t.Error("a refusal of the list is not taken for one")
	}
	if mixed.refused(insert, other) != nil || mixed.refused(bson.D{{Key: "find", Value: "orders"}}, no) != nil || disabled.refused(insert, no) != nil {
		t.Error("a refusal that is not in the list is tolerated")
	}
}
