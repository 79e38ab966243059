package config

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestReference: the reference names every key that the file may have.
func TestReference(t *testing.T) {
	var code []byte
	for _, name := range []string{"sections.go", "auth.go", "users.go", "tls.go", "certificates.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		code = append(code, text...)
	}
	doc, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	asked := regexp.MustCompile(`(?:text|oneOf|boolean|number|duration|size|list|optional|required|has|later|table|tables|pem)\((?:sub, )?"([a-z_]+)"`)
	found := asked.FindAllStringSubmatch(string(code), -1)
	if len(found) < 40 {
		t.Fatalf("only %d keys are read", len(found))
	}
	for _, m := range found {
		if key := m[1]; !strings.Contains(string(doc), "`"+key+"`") && !strings.Contains(string(doc), "["+key) && !strings.Contains(string(doc), "."+key) {
			t.Errorf("docs/configuration.md does not name %q", key)
		}
	}
}
