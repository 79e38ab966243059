package wire

import "testing"

// TestSizeClasses: each buffer has room for what it is taken for, and no class is left out.
func TestSizeClasses(t *testing.T) {
	last := minClass
	for n := 1; n <= 1<<maxDoubled; n += 1 + n/997 {
		class := sizeClass(n)
		if class < last || class > last+1 {
			t.Fatalf("%d bytes are of class %d, and less of %d", n, class, last)
		}
		last = class
		size := classSize(class)
		if size < n || class > minClass && classSize(class-1) >= n {
			t.Errorf("%d bytes are of class %d with %d", n, class, size)
		}
		if n > 1<<coarse && size > n+n/16 {
			t.Errorf("%d bytes take %d", n, size)
		}
	}
	if sizeClass(1<<maxDoubled) != maxClass || sizeClass(1<<maxDoubled+1) <= maxClass || classSize(maxClass) != 1<<maxDoubled {
		t.Errorf("the largest class is %d with %d bytes", sizeClass(1<<maxDoubled), classSize(maxClass))
	}
}
