package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// withUsers loads a configuration whose users file has the text.
func withUsers(users string) (*Config, []Problem, error) {
	text := minimal + "[auth]\nusers_file = \"u.toml\"\n[[tenants]]\nid = \"acme\"\n"
	return load("c.toml", text, environment(), func(string, int64) ([]byte, error) { return []byte(users), nil })
}

const (
	goodCredential = "SCRAM-SHA-256$15000:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	goodUser       = "[[users]]\nname = \"app\"\nrole = \"application\"\ncredentials = [\"" + goodCredential + "\"]\n"
)

// TestUsersFile: each mistake is named by the users file's own line, and none shows a credential.
func TestUsersFile(t *testing.T) {
	edit := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(goodUser) }
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{goodUser, ""},
		{edit(`"application"`, "\"owner\"\ntenant = \"acme\"\nisolation = \"database\""), ""},
		{goodUser + edit("role", "source = \"crm\"\nrole"), ""},
		{goodUser + goodUser, `u.toml:6: users[1].name: "app" is already the name of users[0]; give each user of a source its own name`},
		{edit("name = \"app\"\n", ""), `u.toml:1: users[0].name: is missing; write the name that clients log in with`},
		{edit(`"app"`, `"a\u0000b"`), `u.toml:2: users[0].name: holds control characters; choose another name`},
		{edit(`"app"`, `"`+strings.Repeat("n", 513)+`"`), `u.toml:2: users[0].name: has more than 512 bytes; choose another name`},
		{edit("role = \"application\"\n", ""), `u.toml:1: users[0].role: is missing; write "application" for all tenants' data, or "read", "write" or "owner" with a tenant`},
		{edit("application", "root"), `u.toml:3: users[0].role: "root" is not a choice; write one of "application", "operator", "read", "write" or "owner"`},
		{edit(`"application"`, `"read"`), `u.toml:1: users[0].tenant: is missing; write the key of the tenant whose data the user may see`},
		{edit(`"application"`, "\"read\"\ntenant = \"globex\""), `u.toml:4: users[0].tenant: "globex" is not the key of a tenant; add it to [[tenants]], or configure [tenants_collection]`},
		{edit(`"application"`, "\"operator\"\ntenant = \"acme\""), `u.toml:4: users[0].tenant: has no meaning for role = "operator"; remove it, or choose the role "read", "write" or "owner"`},
		{edit(`"application"`, "\"read\"\ntenant = \"acme\"\nisolation = \"tables\""), `u.toml:5: users[0].isolation: "tables" is not a choice; write one of "rows" or "database"`},
		{edit("role", "source = \"a.b\"\nrole"), `u.toml:3: users[0].source: "a.b" contains '.', which no database name may; write the database that clients authenticate with, or remove it for "admin"`},
		{edit("role", "password = \"hunter2\"\nrole"), `u.toml:3: users[0].password: unknown key; remove it`},
		{edit("credentials", "# credentials"), `u.toml:1: users[0].credentials: there is none; make it with tenantry user add`},
		{edit(goodCredential, "hunter2"), `u.toml:4: users[0].credentials[0]: does not begin with SCRAM-SHA-256$ or SCRAM-SHA-1$; make it with tenantry user add`},
		{edit("$15000", "$1000"), `u.toml:4: users[0].credentials[0]: its iterations are no number from 4096 to 10000000; make it with tenantry user add`},
		{edit(":AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==", ":AAAA"), `u.toml:4: users[0].credentials[0]: its salt is not base64 of the right length; make it with tenantry user add`},
		{edit("A=:", "="), `u.toml:4: users[0].credentials[0]: is not MECHANISM$iterations:salt$StoredKey:ServerKey; make it with tenantry user add`},
		{edit("SHA-256", "SHA-1"), `u.toml:4: users[0].credentials[0]: its StoredKey is not base64 of the right length; make it with tenantry user add`},
		{edit("[\"", "[\""+goodCredential+"\", \""), `u.toml:4: users[0].credentials[1]: is a second one of SCRAM-SHA-256; keep one of each mechanism`},
		{goodUser + edit("\"app\"", "\"b\"", "15000", "20000"), `u.toml:8: users[1].credentials: SCRAM-SHA-256 has 20000 iterations and 28 bytes of salt, that of users[0] 15000 and 28; a log-in would tell who is a user; set one of the passwords anew with tenantry user passwd`},
		{"[user]\nname = \"app\"", `u.toml:1: user: unknown key; did you mean users?`},
		{goodUser + goodCredential, `u.toml:5: not TOML; correct the TOML there`},
		{"users = 7", `u.toml:1: users: found a whole number; write [[users]] over each of its tables`},
	} {
		c, _, err := withUsers(tt.text)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s\n%v", tt.text, err)
			}
			continue
		}
		if err == nil || err.Error() != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
		if c != nil || err != nil && (strings.Contains(err.Error(), "AAAA") || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("shows a credential, or accepts: %v", err)
		}
	}
}

func TestUsers(t *testing.T) {
	c, _, err := Load("testdata/auth.good.toml", environment())
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"testdata/auth.good.toml", "testdata/example.users.toml"}; !reflect.DeepEqual(c.Files(), want) {
		t.Errorf("files %q", c.Files())
	}
	if len(c.Users) != 3 || len(c.Deny) != 3 || c.Deny[2].Address.String() != "198.51.100.0/24" {
		t.Fatalf("users %v, deny %v", c.Users, c.Deny)
	}
	u := c.Users[1]
	if u.Name != "acme-web" || u.Source != "admin" || u.Role != "write" || u.Tenant != "acme" || u.Isolation != "database" {
		t.Errorf("%+v", u)
	}
	text := u.Credentials[0].Text()
	if !strings.Contains(read(t, "testdata/example.users.toml"), `"`+text+`"`) {
		t.Errorf("written as %s", text)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if shown := fmt.Sprintf(verb, u); strings.Contains(shown, u.Credentials[0].Salt) || strings.Contains(shown, text) || !strings.Contains(shown, "redacted") {
			t.Errorf("%s shows %s", verb, shown)
		}
	}
}

// TestDenyNobody: a misspelt name would shut nobody out, which is said.
func TestDenyNobody(t *testing.T) {
	_, warnings, err := loadText(minimal + "[[deny]]\ntenant = \"acmee\"\nreason = \"x\"\n[[deny]]\nuser = \"ap\"\nreason = \"x\"\n")
	if err != nil || len(warnings) != 2 || warnings[0].Key != "deny[0].tenant" || warnings[1].Key != "deny[1].user" {
		t.Errorf("%v %v", warnings, err)
	}
}

// TestFleetKeyWarning: without a key that stays, salts of unknown users change with each start.
func TestFleetKeyWarning(t *testing.T) {
	text := strings.Replace(read(t, "testdata/auth.good.toml"), "[routing]", "[control]\nenabled = false\n[routing]", 1)
	_, warnings, err := loadText(text)
	if err != nil || len(warnings) != 1 || warnings[0].Remedy != "set fleet_key_file" {
		t.Errorf("%v %v", warnings, err)
	}
}

func FuzzCredential(f *testing.F) {
	for _, seed := range []string{goodCredential, "", "SCRAM-SHA-1$", "SCRAM-SHA-1$10000:AAAA$B:C", "SCRAM-SHA-256$$$:::"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCredential(text)
		if err != nil {
			return
		}
		again, err := ParseCredential(c.Text())
		if err != nil || again != c {
			t.Errorf("%q is read as %q", text, c.Text())
		}
	})
}
