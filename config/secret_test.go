package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestSecretIsNeverShown(t *testing.T) {
	c := mustLoad(t, strings.Replace(minimal, "db.example", "user:hunter2@db.example", 1))
	uri := c.Clusters["home"].URI
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %10.3v"} {
		fmt.Fprintf(&out, verb+"\n", uri)
		fmt.Fprintf(&out, verb+"\n", c)
		fmt.Fprintf(&out, verb+"\n", *c)
		fmt.Fprintf(&out, verb+"\n", &uri)
	}
	for _, v := range []any{uri, c, c.Clusters} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
	}
	if err := toml.NewEncoder(&out).Encode(c.Clusters["home"]); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "uri", uri, "cluster", c.Clusters["home"])
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "uri", uri, "cluster", c.Clusters["home"])
	if err := c.WriteSummary(&out); err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"hunter2", "db.example", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2")} {
		if i := strings.Index(out.String(), leak); i >= 0 {
			t.Errorf("shows %s: %.200s", leak, out.String()[max(0, i-100):])
		}
	}
	if uri.GoString() != redacted || uri.String() != redacted {
		t.Error(uri.GoString(), uri.String())
	}
	if uri.Reveal() != "mongodb://user:hunter2@db.example/" || fmt.Sprint(uri) != "mongodb://<redacted>" {
		t.Error(uri.Reveal(), uri)
	}
}

// TestSecretInWrongPlaces pastes a URI wherever a message might quote it.
func TestSecretInWrongPlaces(t *testing.T) {
	const uri = "mongodb://user:hunter2@db.example/"
	for _, text := range []string{
		"[[listeners]]\naddress = \"" + uri + "\"\n",
		"[clusters.\"" + uri + "\"]\nuir = 1\n",
		"[clusters.home]\nuri_env = \"" + uri + "\"\n",
		"[clusters.home]\nuri_file = \"" + uri + "\"\n",
		"[clusters.home]\nuri = " + uri + "\n",
		"[clusters.home]\nuri = \"" + uri + "\n",
		"[clusters.home]\nuri \"" + uri + "\"\n",
		"[clusters.home]\n" + uri + "\n",
		"[clusters.home]\nuri = \"mongodb://user:\\hunter2@db.example\"\n",
		"[clusters.home]\nuri = \"mongo://user:hunter2@db.example\"\n",
		"[clusters.home]\nuri = \"mongodb://user:hunter2 @db.example\"\n",
		"\"" + uri + "\" = 1\n",
		"\"" + uri + "\" = 1\n\"" + uri + "\" = 1\n",
		"\"" + uri + "\" = 1\n[\"" + uri + "\".x]\n",
		"[routing]\nmode = \"" + uri + "\"\nhome = \"" + uri + "\"\n",
		"[routing]\nshared_database = \"" + uri + "\"\ntenant_database = \"" + uri + "\"\n",
		"[modules]\nm = [\"" + uri + "\"]\n",
		"[[tenants]]\nid = \"" + uri + "\"\ncluster = \"" + uri + "\"\nmodules = [\"" + uri + "\"]\n",
		"[limits]\nmessage_memory = \"" + uri + "\"\nqueue_timeout = \"" + uri + "\"\n",
	} {
		_, _, err := loadText(text)
		if err == nil {
			t.Errorf("loads: %s", text)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s\nshows it: %v", text, err)
		}
	}
}
