package policy

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// LiveOptions configures a [Live].
type LiveOptions struct {
	Dir         string // the directory of policy files; "" for a node that is sent its policy
	TrustDomain string

	// Record is called with sound files before they come into force. After an error
	// they do not, and Run tries again. It must not call the Live. Nil records
	// nothing.
	Record func(files map[string][]byte) error
	// OnChange is called after a new set is in force, in the goroutine that brought it;
	// [Live.Set] returns it, or an even newer one. Nil is allowed.
	OnChange func()
	// OnReject is called by Run with the diagnostics of files that were not put
	// in force, once for each content, and with none when the files are sound
	// again. Nil drops them.
	OnReject func(Diagnostics)
}

// Live holds the policy in force. An unsound policy never replaces it.
type Live struct {
	options LiveOptions
	set     atomic.Pointer[Set]

	applying sync.Mutex // one Apply at a time; of the callbacks only Record runs under it
	// unrecorded is sound and not in force, as Record failed; nil for none. It is
	// guarded by applying.
	unrecorded *Set
}

// NewLive returns a Live that denies everything until Apply or Reload gives it
// a policy.
func NewLive(options LiveOptions) *Live {
	l := &Live{options: options}
	empty := &Set{trustDomain: options.TrustDomain, version: boundSites} // sites are denied everything, too
	empty.index()
	l.set.Store(empty)
	return l
}

// Set returns the policy in force; never nil.
func (l *Live) Set() *Set { return l.set.Load() }

// Apply checks files and puts them in force. On an error, which is a
// [Diagnostics], the policy in force stays. Warnings are returned either way.
// Files that are in force already change nothing.
func (l *Live) Apply(files map[string][]byte) (Diagnostics, error) {
	changed, found := l.apply(files)
	if err := found.Err(); err != nil {
		return found, err
	}
	if changed && l.options.OnChange != nil {
		l.options.OnChange()
	}
	return found, nil
}

func (l *Live) apply(files map[string][]byte) (changed bool, found Diagnostics) {
	l.applying.Lock()
	defer l.applying.Unlock()
	s, hash := l.unrecorded, HashFiles(files)
	l.unrecorded = nil
	if len(files) > 0 && hash == l.Set().Hash() {
		return false, nil
	}
	if s == nil || s.Hash() != hash {
		if s, found = Check(files, l.options.TrustDomain); s == nil {
			return false, found.In(l.options.Dir)
		}
	}
	if l.options.Record != nil {
		if err := l.options.Record(files); err != nil {
			l.unrecorded = s
			return false, asDiagnostics(fmt.Errorf("not in force, as it cannot be recorded: %w", err))
		}
	}
	l.set.Store(s)
	return true, found.In(l.options.Dir)
}

// waits reports whether a policy waits for being recorded.
func (l *Live) waits() bool {
	l.applying.Lock()
	defer l.applying.Unlock()
	return l.unrecorded != nil
}

// Reload reads the directory and applies it, as Apply does.
func (l *Live) Reload() (Diagnostics, error) {
	files, err := ReadDir(l.options.Dir)
	if err != nil {
		return asDiagnostics(err), err
	}
	return l.Apply(files)
}

// settle is how long the directory must be quiet before it is read: an editor or a
// checkout makes one change in many steps.
const settle = 100 * time.Millisecond

// retry is the time between two looks for a directory that went away, and between two
// attempts to record a policy.
const retry = 2 * time.Second

// Run applies the directory whenever it changes, until ctx is done. Without a
// directory it only waits.
func (l *Live) Run(ctx context.Context) error {
	if l.options.Dir == "" {
		<-ctx.Done()
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch policy: %w", err)
	}
	defer w.Close()
	if err := w.Add(l.options.Dir); err != nil {
		return fmt.Errorf("watch policy directory %s: %w", l.options.Dir, err)
	}
	// The directory may have changed between the caller's Reload and the watch.
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	var rejected string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			quiet.Reset(settle)
		case <-w.Errors: //nolint:errcheck // a lost event does not matter: reading the directory makes up for it
			quiet.Reset(settle)
		case <-quiet.C:
			// A directory that was moved away takes its watch with it.
			if w.Add(l.options.Dir) != nil {
				quiet.Reset(retry)
			}
			if rejected = l.reload(rejected); l.waits() {
				quiet.Reset(retry)
			}
		}
	}
}

// reload reports a rejection unless it is the one reported last, and returns
// it.
func (l *Live) reload(rejected string) string {
	found, err := l.Reload()
	text := ""
	if err != nil {
		text = found.Error()
	} else {
		found = nil
	}
	if text != rejected && l.options.OnReject != nil {
		l.options.OnReject(found)
	}
	return text
}
