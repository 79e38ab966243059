package work

import (
	"reflect"
	"slices"
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
		{bson.D{{Key: "aggregate", Value: "c"}, {Key: "pipeline", Value: bson.A{is("$bucket", is("groupBy", "$n"))}}}, bson.A{a, b}, bson.A{b, a}, true},
		{bson.D{{Key: "aggregate", Value: "c"}, {Key: "pipeline", Value: bson.A{is("$sort", is("_id", 1)), is("$setWindowFields", bson.D{})}}}, bson.A{a, b}, bson.A{b, a}, false},
	} {
		p := pair{line: Line{Command: test.command}, order: orderOf(test.command), want: half{docs: test.want}, got: half{docs: test.got}}
		if err := p.compare(); (err != nil) != test.differ {
			t.Errorf("%s: %v", text(test.command), err)
		}
	}
}

// Arrays that joins within joins bring have no order either.
func TestOrderWithin(t *testing.T) {
	inner := is("$lookup", is("as", "inner"))
	o := within(bson.A{is("$facet", is("one", bson.A{is("$lookup", bson.D{{Key: "as", Value: "sub.outer"}, {Key: "pipeline", Value: bson.A{inner}}})}))})
	if want := []string{"one", "outer", "inner"}; !slices.Equal(o.bags, want) {
		t.Errorf("without an order are %q, want %q", o.bags, want)
	}
}

// Equal numbers are one, a decimal beside another one too, and no two others are.
func TestEquals(t *testing.T) {
	if got := equals(bson.A{int32(42), decimal(42), "42", int64(7)}); text(got) != text(bson.A{42.0, "42", 7.0}) {
		t.Errorf("equals are %s", text(got))
	}
	if got := equals(bson.A{int32(42), int64(42), decimal(7)}); text(got) != text(bson.A{42.0, 42.0, 7.0}) {
		t.Errorf("what is told twice is told as %s", text(got))
	}
}

// Of plans and figures no more is compared than what servers have in common.
func TestShortened(t *testing.T) {
	reply := bson.D{{Key: "ns", Value: "a.c"}, {Key: "count", Value: int32(2)}, {Key: "nindexes", Value: int32(1)}, {Key: "ok", Value: 1.0}}
	for _, test := range []struct {
		command bson.D
		fields  int
	}{{is("collStats", "c"), 3}, {is("explain", is("find", "c")), 1}, {bson.D{{Key: "aggregate", Value: "c"}, {Key: "explain", Value: true}}, 1}, {is("find", "c"), 4}} {
		if got := shortened(test.command, reply); len(got) != test.fields {
			t.Errorf("of %s is left %s", text(test.command), text(got))
		}
	}
}

// Refused is what the list says, and nothing where no tenant is isolated.
func TestRefused(t *testing.T) {
	update := bson.D{{Key: "update", Value: "orders"}}
	no := bson.D{{Key: "ok", Value: 0.0}, {Key: "code", Value: int32(263)}, {Key: "errmsg", Value: "tenantry: a transaction can not span clusters, and …"}}
	other := bson.D{{Key: "ok", Value: 0.0}, {Key: "code", Value: int32(20)}, {Key: "errmsg", Value: "tenantry: a transaction can not span clusters"}}
	mixed, disabled := Routing{Mode: "mixed"}, Routing{Mode: "disabled"}
	if r := mixed.refused(update, no); r.whole == nil {
		t.Error("a refusal of the list is not taken for one")
	}
	for _, r := range []refusals{mixed.refused(update, other), disabled.refused(update, no)} {
		if r.any() {
			t.Error("a refusal that is not in the list is tolerated")
		}
	}
}

// Of a batch of which some is refused the rest is compared, under the places that it has.
func TestPartly(t *testing.T) {
	const msg = "tenantry: $unset of \"tenantId\" would change the tenant field"
	writes := bson.A{is("q", 0), is("q", 1), is("q", 2), is("q", 3)}
	ordered := bson.D{{Key: "update", Value: "orders"}, {Key: "updates", Value: writes}}
	unordered := append(ordered[:2:2], bson.E{Key: "ordered", Value: false})
	failed := func(at int32, code int32, msg string) bson.D {
		return bson.D{{Key: "index", Value: at}, {Key: "code", Value: code}, {Key: "errmsg", Value: msg}}
	}
	reply := bson.D{{Key: "ok", Value: 1.0}, {Key: "n", Value: int32(2)}, {Key: "writeErrors", Value: bson.A{failed(1, 66, msg), failed(3, 11000, "E11000")}}}
	mixed := Routing{Mode: "mixed"}
	for _, test := range []struct {
		command bson.D
		places  []int
	}{{ordered, []int{0}}, {unordered, []int{0, 2, 3}}} {
		no := mixed.refused(test.command, reply)
		part, places := no.done(test.command)
		if !slices.Equal(places, test.places) || len(array(get(part, "updates"))) != len(places) {
			t.Errorf("of %s are sent %s, %v", text(test.command), text(part), places)
		}
		want := "[" + text(failed(3, 11000, "E11000")) + "]"
		if rest := text(get(no.rest(reply), "writeErrors")); rest != want {
			t.Errorf("the rest is %s, want %s", rest, want)
		}
	}
	if got := placed(bson.D{{Key: "writeErrors", Value: bson.A{failed(2, 11000, "")}}}, []int{0, 2, 3}); text(get(got, "writeErrors")) != "["+text(failed(3, 11000, ""))+"]" {
		t.Errorf("placed: %s", text(got))
	}
}
