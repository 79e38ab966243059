package routing

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/smetasc/tenantry/wire"
)

const page = "../docs/commands.md"

const pageHead = `# Commands and stages

Made from the table that the router works by (` + "`go test ./routing -run TestPage -update`" + `). Where no tenant is
outside the shared database, and on collections and databases that no route touches, an open connection
is served as by a plain proxy of the home cluster: whatever the server knows is forwarded.

*Over several homes* is what happens to a command that concerns a collection with tenants in databases of
their own. A command of one tenant goes to that tenant's home. *Own database* and *own rows* are connections
that are bound to a tenant, with ` + "`isolation = \"database\"`" + ` and ` + "`\"rows\"`" + `: what their access has to be.
Where it says *at home* the collection has to be in a database of the tenant's own.

| command | over several homes | own database | own rows |
| --- | --- | --- | --- |
`

// TestPage keeps the page of supported commands what the table says.
func TestPage(t *testing.T) {
	got := commandsPage()
	if *update {
		if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, strings.Split(got, "\n"), strings.Split(string(want), "\n"))
}

func commandsPage() string {
	var b strings.Builder
	b.WriteString(pageHead)
	for i := range rows {
		c := &rows[i]
		names := "`" + strings.Join(append([]string{c.Name}, c.Aliases...), "`, `") + "`"
		over := c.overHomes()
		if c.View != nil {
			over += "; of views too"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", names, over, c.boundAccess(), c.rowsAccess())
	}
	b.WriteString("\nKnown, and answered with an error:\n\n")
	for _, r := range refusedRows {
		names := strings.Fields(r.names)
		slices.Sort(names)
		fmt.Fprintf(&b, "- %d (%s): `%s`\n", r.Code, r.Text, strings.Join(names, "`, `"))
	}
	b.WriteString("- 59: every other name\n\n| stage | what it is to a pipeline over several homes | own rows |\n| --- | --- | --- |\n")
	var names []string
	for name := range stages {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, stages[name].overHomes(), rowsWords[stages[name].Rows])
	}
	return b.String()
}

var classWords = map[StageClass]string{
	Row: "works on one document after the other", Whole: "needs all documents", Join: "reads another collection beside each document",
	Union: "reads another collection", Output: "writes a collection", Source: "makes documents of its own",
	Info: "reads the server", Change: "a change stream", Internal: "belongs between servers",
}

var rowsWords = map[RowsRule]string{
	RowsDeny: "13", RowsAllow: "yes", RowsFilter: "yes", RowsQuery: "narrowed", RowsJoin: "what it reads is narrowed", RowsFacet: "yes",
	RowsOwn: "at home, narrowed", RowsFigures: "at home", RowsMerge: "at home",
}

func (s *Stage) overHomes() string {
	words := classWords[s.Class]
	switch {
	case s.Over == Everywhere:
		return "reads every cluster, on the database `admin`"
	case s.Over == Scored:
		return "finds the best of all homes"
	case s.Over == Ranked:
		return "finds what every home has, where nothing asks for its order"
	case s.Over != Nowhere || s.Class == Change:
		return words
	case s.Class == Row:
		words = "one home alone can do it"
	}
	return words + ": refused"
}

func (c *Command) overHomes() string {
	switch c.Route {
	case Local:
		return "answered by the proxy"
	case Home, Shared:
		return "the home cluster"
	case EachCluster:
		return "every cluster"
	case ByCursor:
		return "where its cursor is"
	case ByTxn:
		return "where its transaction is"
	case FirstHolder:
		return "shared's answer, else the first home's that has one"
	case EachHolder:
		return mergeWords[c.Merge]
	case ByTenant:
		return mergeWords[c.Merge]
	}
	return fmt.Sprintf("%d: %s", c.Refuse.Code, c.Refuse.Text)
}

var mergeWords = map[MergeKind]string{
	MergeCursor: "every home, merged", MergeCount: "every home, summed", MergeDistinct: "every home, each value once",
	MergeWrite: "each write to where its documents are", MergeOne: "where its document is", MergeBulk: "each write to where its documents are",
	MergeDDL: "every home", MergeFigures: "every home, summed", MergePlans: "every home, side by side", MergeCollections: "every home, each name once", MergeNone: "one home",
}

func (c *Command) boundAccess() string {
	switch c.Bound {
	case BoundLocal:
		return "answered by the proxy"
	case BoundOwner:
		return "owner"
	case BoundAllow, BoundOwn:
		return map[Access]string{None: "any", Session: "any", Read: "read", Write: "write", DDL: "owner", Server: "any"}[c.Access]
	}
	return "13"
}

func (c *Command) rowsAccess() string {
	switch {
	case len(c.Names) > 0 && c.Names[0].Kind == FullNS, c.Bound == BoundOwner && len(c.Names) == 0:
		return "13"
	case c.Bound == BoundOwner || c.Bound == BoundOwn:
		return c.boundAccess() + ", at home"
	}
	return c.boundAccess()
}

// TestTable: a row that writes says where its tenant is, one that merges says how, and what a bound
// connection may do is no more than its access covers.
func TestTable(t *testing.T) {
	for i := range rows {
		c := &rows[i]
		switch {
		case c.Access == Write && c.Tenant.Kind == NoTenant && c.Route != Refused:
			t.Errorf("%s writes, and no place of its tenant is given", c.Name)
		case c.Route == ByTenant && c.Tenant.Kind == NoTenant:
			t.Errorf("%s goes by a tenant that is nowhere", c.Name)
		case (c.Route == EachHolder || c.Route == FirstHolder) && mergeWords[c.Merge] == "" && c.Merge != MergeFirst:
			t.Errorf("%s reaches several homes, and nothing says how their answers become one", c.Name)
		case c.Route == Refused && c.Refuse.Code == 0:
			t.Errorf("%s is refused without a reason", c.Name)
		case c.Refuse.Code == wire.IllegalOperation && (c.Access == Write || c.Access == DDL):
			t.Errorf("%s writes, and is refused with a code that drivers have another reason for", c.Name)
		case c.Bound == BoundAllow && c.Access == Server && c.Route != Refused:
			t.Errorf("%s tells of the server, and every bound connection may ask", c.Name)
		}
		for _, n := range c.Names {
			if n.Path != "" && idOf(n.Path) == 0 {
				t.Errorf("%s names something at %q, which is no field", c.Name, n.Path)
			}
		}
	}
}
