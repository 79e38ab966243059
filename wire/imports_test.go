package wire

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports: wire stands on nothing of the module, wiretest on wire alone.
func TestImports(t *testing.T) {
	const module = "github.com/smetasc/tenantry/"
	for pkg, may := range map[string]string{".": "", "./wiretest": module + "wire"} {
		out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		own := strings.TrimSuffix(module+"wire/"+strings.TrimPrefix(pkg, "./"), "/.")
		for dep := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(dep, module) && dep != own && dep != may {
				t.Errorf("%s imports %s", own, dep)
			}
		}
	}
}
