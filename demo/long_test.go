package demo

import "os"

// long reports whether there is time: TENANTRY_LONG=1, as make test-long sets.
func long() bool { return os.Getenv("TENANTRY_LONG") == "1" }
