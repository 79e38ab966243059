package demo

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/work"
)

// The same work twice once more, with programs by the generator: each is played directly on a
// database and through the proxy with tenants routed by chance, and nobody may see a difference.
// Those that once failed come first.
func TestPrograms(t *testing.T) {
	skipShort(t)
	proxy.Binary(t)
	g := work.NewGround(t)
	files, err := filepath.Glob("testdata/programs/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no programs to replay: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { replay(t, g, file) })
	}
	if t.Failed() {
		return
	}
	if !t.Run("generated", func(t *testing.T) { generate(t, g) }) {
		return
	}
	t.Logf("commands on collections of tenants with databases of their own:\n%s", g.Coverage)
	if kinds := g.Coverage.Unserved(); long() && len(kinds) > 0 {
		t.Errorf("not once served: %q", kinds)
	}
	if refusals := g.Coverage.Unused(); long() && len(refusals) > 0 {
		t.Errorf("tolerated and not met; take them out of the list: %q", refusals)
	}
}

func replay(t *testing.T, g *work.Ground, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := work.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t, p); err != nil {
		t.Error(err)
	}
}

func generate(t *testing.T, g *work.Ground) {
	setDefault(t, "rapid.checks", map[bool]string{false: "150", true: "1600"}[long()])
	if !long() {
		setDefault(t, "rapid.seed", "1") // the same programs each time
	}
	setDefault(t, "rapid.nofailfile", "true") // the text below is easier to keep
	setDefault(t, "rapid.shrinktime", "5s")
	var failed *work.Program
	var why error
	defer func() {
		if failed == nil {
			return
		}
		t.Logf("the difference: %v", why)
		p, err := g.Reduce(t, failed)
		t.Logf("reduced, to be kept in testdata/programs: %v\n%s", err, p)
	}()
	rapid.Check(t, func(r *rapid.T) {
		p := work.Draw().Draw(r, "program")
		if err := g.Run(t, p); err != nil {
			failed, why = p, err
			r.Fatal("a difference; the reduced program is below")
		}
	})
}

// given are the flags of the command line. Asked once: a flag that a test has set counts as given
// from then on.
var given = sync.OnceValue(func() map[string]bool {
	names := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { names[f.Name] = true })
	return names
})

// setDefault sets a flag that the command line does not.
func setDefault(t *testing.T, name, value string) {
	t.Helper()
	if given()[name] {
		return
	}
	old := flag.Lookup(name).Value.String()
	if err := flag.Set(name, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { flag.Set(name, old) })
}
