package backend

import (
	"os"
	"testing"
	"time"

	"github.com/smetasc/tenantry/wire"
)

// TestRealServer runs against the reader's own server, with whatever its URI asks for.
func TestRealServer(t *testing.T) {
	uri := os.Getenv("TENANTRY_TEST_URI")
	if uri == "" {
		t.Skip("TENANTRY_TEST_URI is not set")
	}
	_, c := open(t, uri, Limits{MaxPerServer: 4})
	ctx := within(t, 30*time.Second)
	for _, cmd := range []wire.Doc{
		marshal(d("ping", 1)),
		marshal(d("insert", "backend_test", "documents", []any{d("a", 1)})),
		marshal(d("find", "backend_test", "filter", d("a", 1))),
		marshal(d("drop", "backend_test")),
	} {
		if reply, err := c.Run(ctx, "tenantry_test", cmd); err != nil {
			t.Errorf("%v: %v, %v", cmd, reply, err)
		}
	}
	f := c.Facts()
	if !f.Known || f.MaxWire == 0 || f.MaxDocument == 0 || !c.Ready() {
		t.Errorf("%+v", f)
	}
	conn := acquire(t, c, Select{Pref: &ReadPref{Mode: Nearest}}, 1)
	defer conn.Release()
	const n = 2000
	begin := time.Now()
	for range n {
		roundTrip(t, conn)
	}
	t.Logf("%v per ping, compressor %v, %+v", time.Since(begin)/n, conn.compressor, f)
	conn.pool.mu.Lock()
	conn.idleSince -= 2 * restSure
	conn.pool.mu.Unlock()
	if !conn.usable(now()) {
		t.Error("a live connection looks dead")
	}
}
