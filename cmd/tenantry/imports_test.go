package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport is the picture of the rooms: what each may import of this module. What is not here,
// nobody imports: the commands, demo, and wiretest but for tests.
var mayImport = map[string][]string{
	"wire":          {},
	"wire/wiretest": {"wire"},
	"auth":          {"wire", "config"},
	"config":        {},
	"admin":         {},
	"routing":       {"wire"},
	"backend":       {"wire"},
	"control":       {"wire", "routing", "backend", "config"},
	"proxy":         {"wire", "auth", "routing", "backend", "config"},
	"bench":         {"wire", "config", "control"},
	"cmd/tenantry":  {"wire", "routing", "backend", "auth", "config", "control", "proxy", "admin"},
}

// TestImports: the rooms point one way. Above all neither proxy knows control nor the reverse.
func TestImports(t *testing.T) {
	const module = "github.com/smetasc/tenantry/"
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for list := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := list.Decode(&p); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		room := strings.TrimPrefix(p.ImportPath, module)
		may, known := mayImport[room]
		if !known {
			t.Errorf("%s is a room without a place in the picture", room)
		}
		check := func(imports []string, may ...string) {
			for _, path := range imports {
				if own, ok := strings.CutPrefix(path, module); ok && !slices.Contains(may, own) {
					t.Errorf("%s imports %s", room, own)
				}
			}
		}
		check(p.Imports, may...)
		check(slices.Concat(p.TestImports, p.XTestImports), append(may, room, "wire", "wire/wiretest")...)
	}
}
