package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const everyTick = 2 * time.Millisecond

// watched is a Watch under way; seen gets one element for each call of changed.
type watched struct {
	t    *testing.T
	dir  string
	seen chan struct{}
}

func startWatch(t *testing.T, dir string, paths ...string) *watched {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{t: t, dir: dir, seen: make(chan struct{}, 100)}
	asked, done := make(chan struct{}, 1000), make(chan struct{})
	go func() {
		defer close(done)
		Watch(ctx, func() []string {
			select {
			case asked <- struct{}{}:
			default:
			}
			return paths
		}, everyTick, func() { w.seen <- struct{}{} })
	}()
	t.Cleanup(func() { cancel(); <-done })
	<-asked // the second question comes after the first look
	<-asked
	return w
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, name) }

func (w *watched) wantChange() {
	w.t.Helper()
	select {
	case <-w.seen:
	case <-time.After(5 * time.Second):
		w.t.Fatal("no change was seen")
	}
	w.wantQuiet()
}

func (w *watched) wantQuiet() {
	w.t.Helper()
	select {
	case <-w.seen:
		w.t.Fatal("a change was seen that is none")
	case <-time.After(30 * everyTick):
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatchWriteAndRename(t *testing.T) {
	dir := t.TempDir()
	config, secret := filepath.Join(dir, "t.toml"), filepath.Join(dir, "uri")
	write(t, config, "a = 1\n")
	write(t, secret, "one")
	w := startWatch(t, dir, config, secret)
	w.wantQuiet()
	write(t, config, "a = 1\nb = 2\n")
	w.wantChange()
	write(t, secret, "two") // of the same size
	w.wantChange()
	write(t, w.path("new"), "a = 1\nb = 3\n")
	must(t, os.Rename(w.path("new"), config))
	w.wantChange()
}

// TestWatchRenameSameStamp renames a file of the same size and time over the old one.
func TestWatchRenameSameStamp(t *testing.T) {
	dir := t.TempDir()
	config, when := filepath.Join(dir, "t.toml"), time.Now().Add(-time.Hour)
	write(t, config, "a = 1\n")
	must(t, os.Chtimes(config, when, when))
	w := startWatch(t, dir, config)
	write(t, w.path("new"), "a = 2\n")
	must(t, os.Chtimes(w.path("new"), when, when))
	must(t, os.Rename(w.path("new"), config))
	w.wantChange()
}

// TestWatchSizeOnly has a file grow while its time stays, as a coarse clock may have it.
func TestWatchSizeOnly(t *testing.T) {
	config, when := filepath.Join(t.TempDir(), "t.toml"), time.Now().Add(-time.Hour)
	write(t, config, "a = 1\n")
	must(t, os.Chtimes(config, when, when))
	stamps := make(map[string]os.FileInfo)
	look(stamps, []string{config}, true)
	write(t, config, "a = 22\n")
	must(t, os.Chtimes(config, when, when))
	if differs, _ := look(stamps, []string{config}, false); !differs {
		t.Error("the size is another one")
	}
}

// TestWatchWaitsUntilWritten writes the file between the looks, again and again: it must be
// read only when that has ended.
func TestWatchWaitsUntilWritten(t *testing.T) {
	config := filepath.Join(t.TempDir(), "t.toml")
	write(t, config, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const last = 10
	looks, calls := 0, 0
	paths := func() []string {
		if looks++; looks > 1 && looks <= last {
			write(t, config, strings.Repeat("#", looks))
		}
		if looks == last+10 {
			cancel()
		}
		return []string{config}
	}
	Watch(ctx, paths, time.Millisecond, func() {
		if calls++; looks <= last {
			t.Error("called while the file was being written")
		}
	})
	if calls != 1 {
		t.Errorf("called %d times", calls)
	}
}

// TestWatchWaitsForMissing changes one file while another is missing, for a while or for ever.
func TestWatchWaitsForMissing(t *testing.T) {
	for _, tt := range []struct{ back, want int }{{4, 4}, {1000, 3 + patience}} {
		config := filepath.Join(t.TempDir(), "t.toml")
		secret := config + ".secret"
		write(t, config, "")
		write(t, secret, "x")
		ctx, cancel := context.WithCancel(t.Context())
		looks, called := 0, 0
		paths := func() []string {
			switch looks++; looks {
			case 2:
				write(t, config, "a = 1\n")
				must(t, os.Rename(secret, secret+".away"))
			case tt.back:
				must(t, os.Rename(secret+".away", secret))
			case 30:
				cancel()
			}
			return []string{config, secret}
		}
		Watch(ctx, paths, time.Millisecond, func() { called = looks })
		cancel()
		if called != tt.want {
			t.Errorf("back at look %d: called at look %d, want %d", tt.back, called, tt.want)
		}
	}
}

// TestWatchConfigMap swaps the link ..data as the kubelet does.
func TestWatchConfigMap(t *testing.T) {
	dir := t.TempDir()
	when := time.Now().Add(-time.Hour)
	for _, version := range []string{"..1", "..2"} {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		path := filepath.Join(dir, version, "t.toml")
		write(t, path, "a = "+version[2:]+"\n")
		must(t, os.Chtimes(path, when, when))
	}
	must(t, os.Symlink("..1", filepath.Join(dir, "..data")))
	config := filepath.Join(dir, "t.toml")
	must(t, os.Symlink("..data/t.toml", config))
	w := startWatch(t, dir, config)
	w.wantQuiet()
	must(t, os.Symlink("..2", w.path("..data_tmp")))
	must(t, os.Rename(w.path("..data_tmp"), w.path("..data")))
	w.wantChange()
}

func TestWatchAbsence(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "t.toml")
	write(t, config, "a = 1\n")
	w := startWatch(t, dir, config, filepath.Join(dir, "later"))
	must(t, os.Rename(config, w.path("away")))
	w.wantQuiet()
	must(t, os.Rename(w.path("away"), config))
	w.wantQuiet()
	write(t, w.path("later"), "x")
	w.wantChange()
	must(t, os.Remove(config))
	w.wantQuiet()
	write(t, config, "a = 22\n")
	w.wantChange()
}
