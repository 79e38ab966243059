package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func FuzzLoad(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(paths) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "mixed", "a,b")
	}
	f.Fuzz(func(t *testing.T, text, mode, keys string) {
		env := environment("MULTI_DB_MODE", mode, "MULTI_DB_TENANT_KEYS", keys, "HOME_URI", "mongodb://h/")
		noFiles := func(string, int64) ([]byte, error) { return nil, fs.ErrNotExist }
		c, warnings, err := load("f.toml", text, env, noFiles)
		if err == nil {
			if c == nil || len(c.Listeners) == 0 || c.Clusters[c.Routing.Home].URI == "" {
				t.Fatalf("accepted, but incomplete: %+v", c)
			}
			return
		}
		var problems Errors
		if c != nil || warnings != nil || !errors.As(err, &problems) || len(problems) == 0 {
			t.Fatalf("neither a configuration nor errors: %v, %v", c, err)
		}
		for _, p := range problems {
			if p.Text == "" || p.Remedy == "" {
				t.Errorf("says too little: %+v", p)
			}
		}
	})
}
