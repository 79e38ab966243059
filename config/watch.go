package config

import (
	"context"
	"os"
	"time"
)

// patience is for how many looks a change waits for a file that is missing. It ends, since the
// new configuration may not name that file any more.
const patience = 5

// Watch calls changed when one of the files is another one, by what a stat through symbolic
// links says: written in place, replaced by a rename, or behind a swapped link as in a
// Kubernetes config map. It looks every so often, calls changed only after the files have stood
// still from one look to the next, so that nobody reads half a file, and takes a file that is
// missing for one that is being replaced. It runs in the caller's goroutine until ctx ends;
// paths is asked at each look, since a reload may name other files.
func Watch(ctx context.Context, paths func() []string, every time.Duration, changed func()) {
	stamps := make(map[string]os.FileInfo)
	look(stamps, paths(), true)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	pending, waited := false, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		differs, complete := look(stamps, paths(), false)
		switch {
		case differs:
			pending, waited = true, 0
		case pending && !complete && waited < patience:
			waited++
		case pending && ctx.Err() == nil:
			pending = false
			changed()
		}
	}
}

// look compares the files with their stamps and renews these. A path that is new in the list
// only gets its stamp, a nil one while there is no file: then its appearance is a change.
func look(stamps map[string]os.FileInfo, paths []string, first bool) (differs, complete bool) {
	complete = true
	listed := make(map[string]bool, len(paths))
	for _, path := range paths {
		listed[path] = true
		was, known := stamps[path]
		is, err := os.Stat(path)
		if err != nil {
			complete = false
			if !known {
				stamps[path] = nil
			}
			continue
		}
		stamps[path] = is
		if known && !first && !sameStamp(was, is) {
			differs = true
		}
	}
	for path := range stamps {
		if !listed[path] {
			delete(stamps, path)
		}
	}
	return differs, complete
}

// sameStamp compares device and inode (which os.SameFile knows on every system), size and time.
func sameStamp(was, is os.FileInfo) bool {
	return was != nil && os.SameFile(was, is) && was.Size() == is.Size() && was.ModTime().Equal(is.ModTime())
}
