package config

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	c, _, err := Load("testdata/example.good.toml", environment("MULTI_DB_TENANT_KEYS", "beta"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := c.WriteSummary(&b); err != nil {
		t.Fatal(err)
	}
	const path = "testdata/summary.txt"
	if *update {
		write(t, path, b.String())
	}
	if b.String() != read(t, path) {
		t.Errorf("got\n%s", b.String())
	}
}

func TestSummaryIsBounded(t *testing.T) {
	var b strings.Builder
	if err := mustLoad(t, manyTenants(120)).WriteSummary(&b); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(b.String(), " tenant"); !strings.HasSuffix(b.String(), "… and 70 more\n") || strings.Contains(b.String(), "tenant50 ") || got < 50 {
		t.Errorf("%d tenants:\n%s", got, b.String())
	}
}
