// Package tree finds the places in the repository that the test ground uses.
package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const rootModule = "module github.com/smetasc/tenantry\n"

// Root is the repository's top folder, searched upwards from the working
// directory: tests run in their package's folder, the demo wherever make is.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), rootModule) {
			return dir, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("not inside the tenantry repository")
		}
		dir = up
	}
}

// Path is a place below the repository's top folder.
func Path(t testing.TB, elem ...string) string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

// Need skips the test if something that has to be installed is not there.
// With CI=true it fails instead: there, skipping would only hide a mistake.
func Need(t testing.TB, what, remedy string, ok bool) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("CI") == "true":
		t.Fatalf("%s is missing: %s", what, remedy)
	default:
		t.Skipf("%s is missing: %s", what, remedy)
	}
}

// NeedSetup is Need for a file that demo/setup.sh installs.
func NeedSetup(t testing.TB, file string) {
	t.Helper()
	_, err := os.Stat(file)
	Need(t, file, "run demo/setup.sh (make calls it)", err == nil)
}
