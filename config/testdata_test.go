package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the wanted messages of testdata; read what caused the change")

const wantPrefix = "# want: "

// environment is a fixed one for tests.
func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// testEnvironment is what the files of testdata refer to.
var testEnvironment = environment("HOME_URI", "mongodb://env.example/")

func TestBadFiles(t *testing.T) {
	for _, path := range glob(t, "testdata/*.bad.toml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, _, err := Load(path, testEnvironment)
			var problems Errors
			if !errors.As(err, &problems) || c != nil {
				t.Fatalf("Load = %v, %v; want only Errors", c, err)
			}
			got := strings.ReplaceAll(problems.Error(), path+":", "")
			text := read(t, path)
			first, rest, _ := strings.Cut(text, "\n")
			if *update {
				write(t, path, wantPrefix+strings.TrimSpace(got)+"\n"+rest)
				return
			}
			if want := strings.TrimPrefix(first, wantPrefix); strings.TrimSpace(got) != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if strings.Contains(got, "hunter2") {
				t.Error("the message shows a secret")
			}
		})
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("glob %s: %d files, %v", pattern, len(paths), err)
	}
	return paths
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
