package routing

import "testing"

// TestRows: no command can write without the table saying where its tenant is.
func TestRows(t *testing.T) {
	for c := range Commands {
		if c.Access == Write && c.Route == ByTenant && c.Tenant.Kind == NoTenant {
			t.Errorf("%s writes and says not where its tenant is", c.Name)
		}
		if c.Route == Refused && c.Refuse.Text == "" {
			t.Errorf("%s is refused without a text", c.Name)
		}
		if c.Bound == BoundAllow && c.Access == Server {
			t.Errorf("%s is the server's and allowed to bound connections", c.Name)
		}
	}
}
