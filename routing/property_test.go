package routing

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"pgregory.net/rapid"

	"github.com/smetasc/tenantry/wire"
)

// The values that documents and filters draw from: those of tenants in several spellings, of
// nobody, null, and missing (documents only).
type missing struct{}

var tenantValues = []any{"acme", "globex", int32(42), int64(42), 42.0, "nobody", nil, "ACME", "Á-cme"}

func drawTenant(r *rapid.T) any { return rapid.SampledFrom(tenantValues).Draw(r, "tenant") }

func drawTenants(r *rapid.T) bson.A {
	var a bson.A
	for range rapid.IntRange(0, 3).Draw(r, "n") {
		a = append(a, drawTenant(r))
	}
	return append(bson.A{}, a...)
}

// drawPredicate draws what a filter may ask of the tenant field.
func drawPredicate(r *rapid.T) any {
	if rapid.Bool().Draw(r, "plain") {
		return drawTenant(r)
	}
	var d bson.D
	for range rapid.IntRange(1, 2).Draw(r, "operators") {
		switch op := rapid.SampledFrom([]string{"$eq", "$ne", "$in", "$nin", "$not", "$exists"}).Draw(r, "op"); op {
		case "$in", "$nin":
			d = append(d, bson.E{Key: op, Value: drawTenants(r)})
		case "$not":
			d = append(d, bson.E{Key: op, Value: bson.D{{Key: "$in", Value: drawTenants(r)}}})
		case "$exists":
			d = append(d, bson.E{Key: op, Value: rapid.Bool().Draw(r, "exists")})
		default:
			d = append(d, bson.E{Key: op, Value: drawTenant(r)})
		}
	}
	return d
}

func drawFilter(r *rapid.T, depth int) bson.D {
	d := bson.D{}
	for range rapid.IntRange(0, 2).Draw(r, "clauses") {
		kinds := []string{"tenantId", "tenantId", "x", "$expr", "$and", "$or", "$nor"}
		if depth > 2 {
			kinds = kinds[:4]
		}
		key := rapid.SampledFrom(kinds).Draw(r, "key")
		e := bson.E{Key: key}
		switch key {
		case "tenantId":
			e.Value = drawPredicate(r)
		case "x":
			e.Value = int32(rapid.IntRange(0, 1).Draw(r, "x"))
		case "$expr":
			e.Value = drawExpr(r, 0)
		default:
			var a bson.A
			for range rapid.IntRange(1, 3).Draw(r, "branches") {
				a = append(a, drawFilter(r, depth+1))
			}
			e.Value = a
		}
		d = append(d, e)
	}
	return d
}

func drawExpr(r *rapid.T, depth int) any {
	ops := []string{"$eq", "$ne", "$in", "$and", "$or", "$not"}
	if depth > 1 {
		ops = ops[:3]
	}
	op := rapid.SampledFrom(ops).Draw(r, "expression")
	var args bson.A
	switch op {
	case "$in":
		args = bson.A{drawOperand(r), drawTenants(r)}
	case "$eq", "$ne":
		args = bson.A{drawOperand(r), drawOperand(r)}
	case "$not":
		args = bson.A{drawExpr(r, depth+1)}
	default:
		for range rapid.IntRange(0, 2).Draw(r, "args") {
			args = append(args, drawExpr(r, depth+1))
		}
		args = append(bson.A{}, args...)
	}
	return bson.D{{Key: op, Value: args}}
}

func drawOperand(r *rapid.T) any {
	switch rapid.IntRange(0, 4).Draw(r, "operand") {
	case 0, 1:
		return "$tenantId"
	case 2:
		return "$$who" // let, see evaluate
	case 3:
		return bson.D{{Key: "$literal", Value: drawTenant(r)}}
	}
	return drawTenant(r)
}

// subject is a document that filters are evaluated for, by a collation that folds or by none.
type subject struct {
	tenant, x, who any
	folds          bool
}

// equal compares as BSON does, under the collation.
func (s subject) equal(a, b any) bool {
	x, okX := a.(string)
	y, okY := b.(string)
	return equalValues(a, b) || s.folds && okX && okY && folded(x) == folded(y)
}

// folded is a string less its case, accents and punctuation, as a collation of strength 1 has it that shifts.
func folded(s string) string {
	return strings.NewReplacer("á", "a", "-", "").Replace(strings.ToLower(s))
}

// equalValues compares as BSON does.
func equalValues(a, b any) bool {
	number := func(v any) (float64, bool) {
		switch n := v.(type) {
		case int32:
			return float64(n), true
		case int64:
			return float64(n), true
		case float64:
			return n, true
		}
		return 0, false
	}
	m, okA := number(a)
	n, okB := number(b)
	return okA && okB && m == n || !okA && !okB && a == b
}

// asks is equality in a query, where null finds missing fields too.
func (s subject) asks(v any) bool {
	return s.equal(s.tenant, v) || v == nil && s.tenant == missing{}
}

func (s subject) matches(f bson.D) bool {
	for _, e := range f {
		var ok bool
		switch e.Key {
		case "x":
			ok = e.Value == s.x
		case "tenantId":
			ok = s.predicate(e.Value)
		case "$expr":
			ok = s.expression(e.Value.(bson.D))
		default:
			n := 0
			for _, sub := range e.Value.(bson.A) {
				if s.matches(sub.(bson.D)) {
					n++
				}
			}
			ok = e.Key == "$and" && n == len(e.Value.(bson.A)) || e.Key == "$or" && n > 0 || e.Key == "$nor" && n == 0
		}
		if !ok {
			return false
		}
	}
	return true
}

func (s subject) predicate(want any) bool {
	d, ok := want.(bson.D)
	if !ok {
		return s.asks(want)
	}
	for _, e := range d {
		var hit bool
		switch e.Key {
		case "$eq":
			hit = s.asks(e.Value)
		case "$ne":
			hit = !s.asks(e.Value)
		case "$in":
			hit = slices.ContainsFunc(e.Value.(bson.A), s.asks)
		case "$nin":
			hit = !slices.ContainsFunc(e.Value.(bson.A), s.asks)
		case "$not":
			hit = !s.predicate(e.Value)
		case "$exists":
			hit = (s.tenant != missing{}) == e.Value.(bool)
		}
		if !hit {
			return false
		}
	}
	return true
}

func (s subject) expression(d bson.D) bool {
	args := d[0].Value.(bson.A)
	switch d[0].Key {
	case "$eq":
		return s.equal(s.operand(args[0]), s.operand(args[1]))
	case "$ne":
		return !s.equal(s.operand(args[0]), s.operand(args[1]))
	case "$in":
		v := s.operand(args[0])
		return slices.ContainsFunc(args[1].(bson.A), func(w any) bool { return s.equal(v, w) })
	case "$not":
		return !s.expression(args[0].(bson.D))
	}
	n := 0
	for _, a := range args {
		if s.expression(a.(bson.D)) {
			n++
		}
	}
	return d[0].Key == "$and" && n == len(args) || d[0].Key == "$or" && n > 0
}

func (s subject) operand(v any) any {
	switch v {
	case "$tenantId":
		return s.tenant
	case "$$who":
		return s.who
	}
	if d, ok := v.(bson.D); ok {
		return d[0].Value
	}
	return v
}

// home is where documents with the value live, by the words of worldText.
func home(tenant any) string {
	switch {
	case tenant == "acme":
		return "app_t_acme"
	case equalValues(tenant, int32(42)):
		return "app_t_n42"
	}
	return "app"
}

// TestExtractionIsSound: a document that a filter matches has a tenant of the set that was read
// from the filter, and lives where the find goes.
func TestExtractionIsSound(t *testing.T) {
	folding := bson.D{{Key: "locale", Value: "en"}, {Key: "strength", Value: 1}, {Key: "alternate", Value: "shifted"}}
	t.Run("strings are bytes", func(t *testing.T) { checkExtraction(t, nil) })
	t.Run("strings fold", func(t *testing.T) { checkExtraction(t, folding) })
}

func checkExtraction(t *testing.T, collation bson.D) {
	table := world(t, nil)
	told := 0
	rapid.Check(t, func(r *rapid.T) {
		f, who := drawFilter(r, 0), drawTenant(r)
		command := bson.D{{Key: "find", Value: "orders"}, {Key: "filter", Value: f}, {Key: "let", Value: bson.D{{Key: "who", Value: who}}}}
		if collation != nil {
			command = append(command, bson.E{Key: "collation", Value: collation})
		}
		body, err := bson.Marshal(command)
		if err != nil {
			r.Fatal(err)
		}
		req, refused := requestOf(t, body)
		if refused != nil {
			r.Fatal(refused)
		}
		var set tenantSet
		var x extractor
		x.of(req, table.byName.find([]byte("app")).collection([]byte("orders")), table.collation(req))
		q, _ := req.value(fFilter).Doc()
		x.filter(&set, q, 0)
		d := table.Route(req)
		if !set.known && !set.alike {
			return
		}
		told++
		for _, tenant := range append(slices.Clone(tenantValues), missing{}) {
			for _, n := range []any{int32(0), int32(1)} {
				if !(subject{tenant, n, who, collation != nil}).matches(f) {
					continue
				}
				if set.known && !set.has(valueOf(t, tenant)) {
					r.Fatalf("%v matches a document of %v, which is not in the set", f, tenant)
				}
				if !goesTo(&d, home(tenant)) {
					r.Fatalf("%v matches a document of %v, and does not go to %s but to %v", f, tenant, home(tenant), d)
				}
			}
		}
	})
	if told == 0 {
		t.Error("no filter told a tenant: nothing was tested")
	}
}

// goesTo reports whether a command that is neither held nor refused goes to the database.
func goesTo(d *Decision, db string) bool {
	switch d.Action {
	case Forward:
		return d.Target.DB == db
	case Scatter:
		return slices.ContainsFunc(d.Targets, func(x *Target) bool { return x.DB == db })
	}
	return true
}

func valueOf(t testing.TB, v any) wire.Value {
	if v == nil || v == (missing{}) {
		return wire.Value{Type: bsoncore.TypeNull}
	}
	typ, data, err := bson.MarshalValue(v)
	if err != nil {
		t.Fatal(err)
	}
	return wire.Value{Type: bsoncore.Type(typ), Data: data}
}

// object is a document that updates are applied to.
type object = map[string]any

// at finds the parent of a path and its last part; nil where the path goes through a scalar. The
// parents are made where make says so.
func at(o object, path string, make bool) (object, string) {
	for {
		first, rest, more := strings.Cut(path, ".")
		if !more {
			return o, first
		}
		next, exists := o[first]
		if !exists && make {
			next = object{}
			o[first] = next
		}
		sub, ok := next.(object)
		if !ok {
			return nil, ""
		}
		o, path = sub, rest
	}
}

func valueAt(o object, path string) any {
	parent, last := at(o, path, false)
	if v, ok := parent[last]; ok {
		return v
	}
	return missing{}
}

func set(o object, path string, v any) {
	if parent, last := at(o, path, true); parent != nil {
		if d, ok := v.(bson.D); ok {
			v = objectOf(d)
		}
		parent[last] = v
	}
}

func objectOf(d bson.D) object {
	o := object{}
	for _, e := range d {
		set(o, e.Key, e.Value)
	}
	return o
}

// apply makes the update naively; operators that would fail on a server may do anything here.
func apply(o object, u bson.D, inserted bool) object {
	if len(u) == 0 || u[0].Key[0] != '$' {
		return objectOf(u)
	}
	for _, op := range u {
		for _, e := range op.Value.(bson.D) {
			parent, last := at(o, e.Key, op.Key != "$unset" && op.Key != "$rename")
			if parent == nil {
				continue
			}
			switch op.Key {
			case "$set":
				set(o, e.Key, e.Value)
			case "$setOnInsert":
				if inserted {
					set(o, e.Key, e.Value)
				}
			case "$unset":
				delete(parent, last)
			case "$rename":
				if v, ok := parent[last]; ok {
					delete(parent, last)
					set(o, e.Value.(string), v)
				}
			default:
				parent[last] = op.Key // some other value
			}
		}
	}
	return o
}

func drawUpdate(r *rapid.T, field string) bson.D {
	paths := []string{"x", "y.z", field, field, field + ".q", strings.Split(field, ".")[0], "company.name"}
	u := bson.D{}
	if rapid.Bool().Draw(r, "replacement") {
		for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"x", "tenantId", "company"}), 0, 3, rapid.ID).Draw(r, "fields") {
			u = append(u, bson.E{Key: p, Value: drawPart(r)})
		}
		return u
	}
	ops := []string{"$set", "$setOnInsert", "$unset", "$rename", "$inc", "$push", "$shiny"}
	for _, op := range rapid.SliceOfNDistinct(rapid.SampledFrom(ops), 1, 2, rapid.ID).Draw(r, "operators") {
		d := bson.D{}
		for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom(paths), 0, 2, rapid.ID).Draw(r, "paths") {
			v := drawPart(r)
			if op == "$rename" {
				v = rapid.SampledFrom(paths).Draw(r, "to")
			}
			d = append(d, bson.E{Key: p, Value: v})
		}
		u = append(u, bson.E{Key: op, Value: d})
	}
	return u
}

// drawUpdatePipeline draws an update by a pipeline.
func drawUpdatePipeline(r *rapid.T, field string) bson.A {
	paths := []string{"x", "y.z", field, field, field + ".q", strings.Split(field, ".")[0], "company.name"}
	a := bson.A{}
	for range rapid.IntRange(1, 3).Draw(r, "stages") {
		path := rapid.SampledFrom(paths).Draw(r, "path")
		switch stage := rapid.SampledFrom([]string{"$set", "$set", "$addFields", "$unset", "$replaceWith"}).Draw(r, "stage"); stage {
		case "$unset":
			a = append(a, bson.D{{Key: stage, Value: path}})
		case "$replaceWith":
			a = append(a, bson.D{{Key: stage, Value: drawPart(r)}})
		default:
			v := drawPart(r)
			switch rapid.IntRange(0, 3).Draw(r, "expression") {
			case 0:
				v = "$" + rapid.SampledFrom(paths).Draw(r, "from")
			case 1:
				v = bson.D{{Key: "$literal", Value: v}}
			}
			a = append(a, bson.D{{Key: stage, Value: bson.D{{Key: path, Value: v}}}})
		}
	}
	return a
}

// applyPipeline makes the update naively.
func applyPipeline(o object, a bson.A) object {
	for _, x := range a {
		stage := x.(bson.D)[0]
		switch stage.Key {
		case "$unset":
			if parent, last := at(o, stage.Value.(string), false); parent != nil {
				delete(parent, last)
			}
		case "$replaceWith":
			o, _ = evaluated(o, stage.Value).(object)
		default:
			setEvaluated(o, o, stage.Value.(bson.D))
		}
	}
	return o
}

// setEvaluated sets fields of an object to what expressions are of the document; an object of expressions
// goes into the one that is there.
func setEvaluated(o, doc object, d bson.D) {
	for _, e := range d {
		if sub, ok := e.Value.(bson.D); ok && sub[0].Key[0] != '$' {
			for _, inner := range sub {
				setEvaluated(o, doc, bson.D{{Key: e.Key + "." + inner.Key, Value: inner.Value}})
			}
			continue
		}
		parent, last := at(o, e.Key, true)
		if parent == nil { // a scalar on the way becomes an object
			first, _, _ := strings.Cut(e.Key, ".")
			delete(o, first)
			parent, last = at(o, e.Key, true)
		}
		if v := evaluated(doc, e.Value); v != (missing{}) {
			parent[last] = v
		} else {
			delete(parent, last)
		}
	}
}

func copyOf(v any) any {
	o, ok := v.(object)
	if !ok {
		return v
	}
	c := object{}
	for name, part := range o {
		c[name] = copyOf(part)
	}
	return c
}

func evaluated(doc object, v any) any {
	switch v := v.(type) {
	case string:
		if path, ok := strings.CutPrefix(v, "$"); ok {
			return copyOf(valueAt(doc, path))
		}
	case bson.D:
		if v[0].Key == "$literal" {
			if d, ok := v[0].Value.(bson.D); ok {
				return objectOf(d)
			}
			return v[0].Value
		}
		o := object{}
		setEvaluated(o, doc, v)
		return o
	}
	return v
}

// drawPart draws a value that an update sets: a tenant's, or an object around one.
func drawPart(r *rapid.T) any {
	switch rapid.IntRange(0, 2).Draw(r, "part") {
	case 0:
		return bson.D{{Key: "id", Value: drawTenant(r)}}
	case 1:
		return bson.D{{Key: "name", Value: "x"}}
	}
	return drawTenant(r)
}

// TestUpdatesKeepTheirHome: what the guard lets through leaves a document, found or made, where
// its tenant is; in a tenant's own database with the field.
func TestUpdatesKeepTheirHome(t *testing.T) {
	for _, field := range []string{"tenantId", "company.id"} {
		t.Run(field, func(t *testing.T) { updatesKeepTheirHome(t, field) })
	}
}

func updatesKeepTheirHome(t *testing.T, field string) {
	table := world(t, func(s *Spec) { s.Field = field })
	passed, piped := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		tenant := rapid.SampledFrom([]any{"acme", "globex", int32(42)}).Draw(r, "of")
		upsert := rapid.Bool().Draw(r, "upsert")
		var u any
		var change func(o object, inserted bool) object
		starts := true // from the fields that the filter says
		if rapid.Bool().Draw(r, "pipeline") {
			a := drawUpdatePipeline(r, field)
			u, change = a, func(o object, _ bool) object { return applyPipeline(o, a) }
		} else {
			d := drawUpdate(r, field)
			starts = len(d) > 0 && d[0].Key[0] == '$'
			u, change = d, func(o object, inserted bool) object { return apply(o, d, inserted) }
		}
		q, copied := drawOwn(r, field, tenant)
		d := routed(t, table, bson.D{{Key: "update", Value: "orders"}, {Key: "updates", Value: bson.A{
			bson.D{{Key: "q", Value: q}, {Key: "u", Value: u}, {Key: "upsert", Value: upsert}},
		}}})
		if d.Action != Forward {
			return
		}
		passed++
		if _, ok := u.(bson.A); ok {
			if d.Target.Tenant != nil {
				return // its last stage keeps the field
			}
			piped++
		}
		found := object{"x": "acme"}
		set(found, field, tenant)
		made := object{}
		if copied && starts {
			set(made, field, tenant)
		}
		results := []object{change(found, false)}
		if upsert {
			results = append(results, change(made, true))
		}
		for _, o := range results {
			v := valueAt(o, field)
			if _, isObject := v.(object); isObject || home(v) != d.Target.DB {
				r.Fatalf("%v of %v leaves %v in %s", u, q, o, d.Target.DB)
			}
		}
	})
	if passed == 0 || piped == 0 {
		t.Errorf("%d updates passed, %d by pipelines: nothing was tested", passed, piped)
	}
}

// drawOwn draws a filter of one tenant and whether servers copy its value into the document that
// an upsert makes.
func drawOwn(r *rapid.T, field string, tenant any) (q bson.D, copied bool) {
	eq := bson.D{{Key: field, Value: tenant}}
	switch rapid.IntRange(0, 4).Draw(r, "filter") {
	case 0:
		return bson.D{{Key: field, Value: bson.D{{Key: "$in", Value: bson.A{tenant}}}}}, false
	case 1:
		return bson.D{{Key: "$expr", Value: bson.D{{Key: "$eq", Value: bson.A{"$" + field, tenant}}}}}, false
	case 2:
		return bson.D{{Key: "$or", Value: bson.A{append(bson.D{{Key: "x", Value: 1}}, eq...), eq}}}, false
	case 3:
		return bson.D{{Key: "$and", Value: bson.A{bson.D{{Key: "x", Value: bson.D{{Key: "$gt", Value: 1}}}}, eq}}}, true
	}
	return eq, true
}

func routed(t testing.TB, table *Table, command bson.D) Decision {
	body, err := bson.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	req, refused := requestOf(t, body)
	if refused != nil {
		t.Fatal(refused)
	}
	return table.Route(req)
}

// names that bound commands try; of them only app and crm are theirs.
var databaseNames = []string{"app", "crm", "app", "crm", "other", "admin", "tenantry", "app_t_globex", "app_t_acme"}

func drawDB(r *rapid.T) string { return rapid.SampledFrom(databaseNames).Draw(r, "db") }

func drawStages(r *rapid.T, depth int) bson.A {
	a := bson.A{}
	for range rapid.IntRange(0, 2).Draw(r, "stages") {
		kinds := []string{"$match", "$out", "$out.db", "$merge", "$info", "$shiny", "$lookup", "$unionWith", "$facet"}
		if depth > 2 {
			kinds = kinds[:6]
		}
		a = append(a, drawStage(r, rapid.SampledFrom(kinds).Draw(r, "stage"), depth))
	}
	return a
}

func drawStage(r *rapid.T, kind string, depth int) bson.D {
	there := func() bson.D {
		return bson.D{{Key: "db", Value: drawDB(r)}, {Key: "coll", Value: "x"}}
	}
	var v any = bson.D{}
	switch kind {
	case "$out":
		v = "x"
	case "$out.db":
		return bson.D{{Key: "$out", Value: there()}}
	case "$merge":
		v = bson.D{{Key: "into", Value: there()}, {Key: "on", Value: "_id"}}
	case "$info":
		return bson.D{{Key: rapid.SampledFrom([]string{"$currentOp", "$collStats", "$listCatalog"}).Draw(r, "info"), Value: v}}
	case "$lookup":
		v = bson.D{{Key: "from", Value: there()}, {Key: "pipeline", Value: drawStages(r, depth+1)}, {Key: "as", Value: "y"}}
	case "$unionWith":
		v = bson.D{{Key: "coll", Value: "x"}, {Key: "pipeline", Value: drawStages(r, depth+1)}}
	case "$facet":
		v = bson.D{{Key: "a", Value: drawStages(r, depth+1)}, {Key: "b", Value: drawStages(r, depth+1)}}
	}
	return bson.D{{Key: kind, Value: v}}
}

func drawCommand(r *rapid.T) bson.D {
	ns := func() string { return drawDB(r) + ".x" }
	db := bson.E{Key: "$db", Value: drawDB(r)}
	switch rapid.IntRange(0, 6).Draw(r, "command") {
	case 0:
		return bson.D{{Key: "aggregate", Value: "x"}, {Key: "pipeline", Value: drawStages(r, 0)}, db}
	case 1:
		return bson.D{{Key: "create", Value: "x"}, {Key: "viewOn", Value: "y"}, {Key: "pipeline", Value: drawStages(r, 0)}, db}
	case 2:
		return bson.D{{Key: "renameCollection", Value: ns()}, {Key: "to", Value: ns()}, db}
	case 3:
		return bson.D{
			{Key: "bulkWrite", Value: 1},
			{Key: "ops", Value: bson.A{}},
			{Key: "nsInfo", Value: bson.A{bson.D{{Key: "ns", Value: ns()}}, bson.D{{Key: "ns", Value: ns()}}}},
			db,
		}
	case 4:
		in := drawCommand(r)
		if rapid.Bool().Draw(r, "bare") {
			in = in[:len(in)-1]
		}
		return bson.D{{Key: "explain", Value: in}, db}
	case 5:
		return bson.D{{Key: "$sections", Value: bson.D{{Key: "documents", Value: bson.A{bson.D{}}}}}, {Key: "insert", Value: "x"}, db}
	}
	names := slices.Sorted(maps.Keys(commands))
	return bson.D{{Key: rapid.SampledFrom(names).Draw(r, "name"), Value: "x"}, db}
}

// TestBoundStaysAtHome: whatever a bound connection sends, what is forwarded goes to its tenant's
// databases and names no other one, and what is refused has a code.
func TestBoundStaysAtHome(t *testing.T) {
	two := func(s *Spec) { s.Databases = append(s.Databases, DatabaseSpec{Name: "crm", Prefix: "crm_t_"}) }
	table := world(t, two)
	back := world(t, func(s *Spec) {
		s.Databases = []DatabaseSpec{{Name: "app_t_acme", Prefix: "p_"}, {Name: "crm_t_acme", Prefix: "q_"}}
		s.Tenants = s.Tenants[:1]
		s.Tenants[0].Route.Databases = map[string]string{"app_t_acme": "app", "crm_t_acme": "crm"}
	})
	forwarded := 0
	rapid.Check(t, func(r *rapid.T) {
		command := drawCommand(r)
		body, _ := bson.Marshal(command)
		req, err := requestOf(t, body)
		if err != nil {
			return
		}
		req.Bound = &Binding{Key: "acme", Database: true, Access: rapid.SampledFrom([]Access{Read, Write, DDL}).Draw(r, "access")}
		d := table.Route(req)
		switch d.Action {
		case Refuse:
			if d.Err == nil || d.Err.Code == 0 || d.Err.Code.Name() == "" {
				r.Fatalf("%v is refused without a code", command)
			}
			return
		case Forward:
		case Answer, Empty, AtCursor, AtTxn, Clusters:
			return
		default:
			r.Fatalf("%v: %s", command, told(d))
		}
		if d.Target.Logical == "" && req.Cmd.Access == None {
			return // nothing is named
		}
		if d.Target.Tenant == nil || d.Target.Tenant.Key != "acme" {
			r.Fatalf("%v goes to %s", command, told(d))
		}
		var p wire.Patch
		if err := table.Rename(req, d.Target, &p); err != nil {
			return
		}
		forwarded++
		there := p.ApplyTo(&wire.Buf{B: req.Msg.Frame})
		for _, name := range named(t, there.B) {
			if name != "app_t_acme" && name != "crm_t_acme" && !(name == "admin" && string(req.DB) == "admin") {
				r.Fatalf("%v as %v names %s", command, req.Bound.Access, name)
			}
		}
		if again := renamedBack(r, back, there.B); !bytes.Equal(again, req.Msg.Frame) {
			r.Fatalf("%v there and back is another message", command)
		}
	})
	if forwarded == 0 {
		t.Error("nothing was forwarded")
	}
}

// named is every database that the strings of a message name.
func named(t testing.TB, frame []byte) (names []string) {
	var m wire.Message
	if err := m.Parse(frame); err != nil {
		t.Fatal(err)
	}
	if err := m.Body.Check(); err != nil {
		t.Fatal(err)
	}
	var walk func(d wire.Doc)
	walk = func(d wire.Doc) {
		for it := d.Iter(); it.Next(); {
			if s, ok := it.Value.Str(); ok {
				db, _, _ := strings.Cut(string(s), ".")
				if slices.Contains(databaseNames, db) || strings.Contains(db, "_t_") {
					names = append(names, db)
				}
			}
			if sub, ok := it.Value.AnyDoc(); ok {
				walk(sub)
			}
		}
	}
	walk(m.Body)
	return names
}

// renamedBack renames by a table whose logical databases are the other's physical ones.
func renamedBack(r *rapid.T, back *Table, frame []byte) []byte {
	var m wire.Message
	var req Request
	req.Bound = &Binding{Key: "acme", Database: true, Access: DDL}
	if err := m.Parse(frame); err != nil {
		r.Fatal(err)
	}
	if err := req.Parse(&m); err != nil {
		r.Fatal(err)
	}
	var p wire.Patch
	d := back.Route(&req)
	if d.Action != Forward {
		r.Fatalf("back: %s", told(d))
	}
	if err := back.Rename(&req, d.Target, &p); err != nil {
		r.Fatal(err)
	}
	return p.ApplyTo(&wire.Buf{B: frame}).B
}
