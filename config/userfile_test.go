package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openUsers(t *testing.T, text string) *UserFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users.toml")
	if text != "" {
		write(t, path, text)
	}
	f, err := OpenUsers(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustPut(t *testing.T, f *UserFile, u User) {
	t.Helper()
	if err := f.Put(u); err != nil {
		t.Fatal(err)
	}
}

// TestUserFile: a change leaves everything else of the file as it was, byte by byte.
func TestUserFile(t *testing.T) {
	c, err := ParseCredential(goodCredential)
	if err != nil {
		t.Fatal(err)
	}
	const (
		head  = "# the users\n\n"
		first = "[[users]] # the application\nname = \"app\"\nrole = \"application\"\n# keys:\ncredentials = [\n  \"" + goodCredential + "\",\n]  # of may\n"
		mid   = "\n# acme's\n"
		other = "[[users]]\nname = \"a\\\"b\"\nsource = \"crm\"\nrole = \"owner\"\ntenant = \"acme\"\nisolation = \"database\"\ncredentials = [\"" + goodCredential + "\"]"
		tail  = "\n\n# the end\n"
	)
	text := head + first + mid + other + tail
	f := openUsers(t, text)
	u := *f.Find("crm", `a"b`)
	mustPut(t, f, u)
	if f.text != text {
		t.Errorf("written anew:\n%s", f.text)
	}
	u.Role, u.Tenant, u.Isolation = "operator", "", ""
	mustPut(t, f, u)
	changed := "[[users]]\nname = \"a\\\"b\"\nsource = \"crm\"\nrole = \"operator\"\ncredentials = [\"" + goodCredential + "\"]"
	if f.text != head+first+mid+changed+tail {
		t.Errorf("changed:\n%s", f.text)
	}
	mustPut(t, f, User{Name: "new", Source: "admin", Role: "application", Credentials: []Credential{c}})
	added := "\n[[users]]\nname = \"new\"\nrole = \"application\"\ncredentials = [\"" + goodCredential + "\"]\n"
	if f.text != head+first+mid+changed+tail+added {
		t.Errorf("added:\n%s", f.text)
	}
	if ok, err := f.Remove("admin", "app"); !ok || err != nil || f.text != head+strings.TrimLeft(mid, "\n")+changed+tail+added {
		t.Errorf("removed: %v %v\n%s", ok, err, f.text)
	}
	if ok, err := f.Remove("admin", "app"); ok || err != nil {
		t.Errorf("removed again: %v %v", ok, err)
	}
	for _, bad := range []User{
		{Name: "", Source: "admin", Role: "application", Credentials: []Credential{c}},
		{Name: "x", Source: "admin", Role: "read", Credentials: []Credential{c}},
		{Name: "x", Source: "admin", Role: "application"},
	} {
		before := f.text
		if err := f.Put(bad); err == nil || f.text != before {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestUserFileSave(t *testing.T) {
	c, _ := ParseCredential(goodCredential)
	f := openUsers(t, "")
	mustPut(t, f, User{Name: "app", Source: "admin", Role: "application", Credentials: []Credential{c}})
	link := f.path + ".link"
	for range 2 {
		if err := f.Save(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(f.path, 0o644); err != nil {
			t.Fatal(err)
		}
		os.Symlink(f.path, link)
		var err error
		if f, err = OpenUsers(link); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(f.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if is, err := os.Lstat(link); err != nil || is.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v %v", is, err)
	}
	entries, _ := os.ReadDir(filepath.Dir(f.path))
	if len(entries) != 2 || read(t, f.path) != goodUser {
		t.Errorf("%v: %s", entries, read(t, f.path))
	}
	if _, err := OpenUsers(filepath.Join(filepath.Dir(f.path), "nowhere", "users.toml")); err != nil {
		t.Error(err)
	}
}

func TestUserFileInline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.toml")
	write(t, path, "users = [{name = \"app\", role = \"application\", credentials = [\""+goodCredential+"\"]}]\n")
	if _, err := OpenUsers(path); err == nil || !strings.Contains(err.Error(), "[[users]] of its own") {
		t.Error(err)
	}
}
