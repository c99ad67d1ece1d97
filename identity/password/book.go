package password

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/internal/logfield"
)

// Why a login is refused.
var (
	ErrUnknown = errors.New("no password is set for the name")
	ErrWrong   = errors.New("wrong password")
	ErrOften   = errors.New("too many failed logins, try again later")
	ErrBusy    = errors.New("too many logins at once, try again later")
)

const (
	// MinBytes is how short a password may be.
	MinBytes = 8
	// MaxBytes is how long one may be: MQTT's longest.
	MaxBytes = 65_535
	// maxName bounds names, which strangers fill the limits' memory with.
	maxName = 128
)

const (
	// maxHashes bounds the hashes under way, and with them the memory: 64 MiB each.
	maxHashes = 4
	// patience is how long a login waits for its turn.
	patience = 5 * time.Second
	// maxFile bounds the file: some hundred thousand names.
	maxFile = 32 << 20
)

// Book is the passwords of one file. All methods are safe for concurrent use.
type Book struct {
	path   string
	log    logrus.FieldLogger
	cost   cost
	slots  chan struct{} // one token per hash under way
	nobody hash          // compared with when the name is unknown
	failed *attempts

	mu       sync.Mutex // guards the next four and the file
	entries  map[string]entry
	seen     fs.FileInfo // the file that entries are from; nil: there was none
	broken   bool        // the file has changed into something unreadable
	memories memories
}

// same reports whether two looks at the file found the same one.
func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// Open reads the file at path; a file that does not exist holds no passwords. A
// later change of the file is read before the next login.
func Open(path string, log logrus.FieldLogger) (*Book, error) {
	b := &Book{
		path: path, log: log, cost: defaultCost,
		slots:    make(chan struct{}, min(maxHashes, max(1, runtime.GOMAXPROCS(0)/2))),
		failed:   newAttempts(),
		memories: newMemories(),
	}
	b.nobody = hash{cost: b.cost, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.reload(); err != nil {
		return nil, err
	}
	return b, nil
}

// reload reads the file if it is another than before. The caller holds mu.
func (b *Book) reload() error {
	info, err := os.Stat(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		info, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("passwords: %w", err)
	}
	if b.entries != nil && same(info, b.seen) {
		return nil
	}
	all := make(map[string]entry)
	if info != nil {
		if info.Size() > maxFile {
			return fmt.Errorf("%s: %d bytes, at most %d", b.path, info.Size(), maxFile)
		}
		text, err := os.ReadFile(b.path)
		if err != nil {
			return fmt.Errorf("passwords: %w", err)
		}
		if all, err = parse(string(text)); err != nil {
			return fmt.Errorf("%s: %w", b.path, err)
		}
	}
	b.entries, b.seen = all, info
	return nil
}

// refresh is reload for callers that go on with the earlier passwords when it fails.
func (b *Book) refresh() {
	err := b.reload()
	if err != nil && !b.broken {
		b.log.WithField(logfield.File, b.path).WithError(err).Error("the password file cannot be read; the passwords before it stay")
	}
	b.broken = err != nil
}

// Check refuses a password that is too short or too long.
func Check(password []byte) error {
	if len(password) < MinBytes || len(password) > MaxBytes {
		return fmt.Errorf("a password of %d bytes: want %d to %d", len(password), MinBytes, MaxBytes)
	}
	return nil
}

// Set gives e.Name the password, instead of one it may have. It returns when
// that is on disk.
func (b *Book) Set(ctx context.Context, e Entry, password []byte) error {
	if e.Name == "" || len(e.Name) > maxName || strings.ContainsFunc(e.Name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) || e.Name[0] == '#' {
		return fmt.Errorf("name %q: want one word", e.Name)
	}
	if err := Check(password); err != nil {
		return err
	}
	done, err := b.turn(ctx)
	if err != nil {
		return err
	}
	h := newHash(password, b.cost)
	done()
	e.Set = time.Now().UTC().Truncate(time.Second)
	return b.change(func(all map[string]entry) { all[e.Name] = entry{e, h} })
}

// Delete takes the password of name away and reports whether it had one. It
// returns when that is on disk.
func (b *Book) Delete(name string) (had bool, err error) {
	err = b.change(func(all map[string]entry) {
		_, had = all[name]
		delete(all, name)
	})
	return had, err
}

// change lets edit alter the passwords and writes the file.
func (b *Book) change(edit func(map[string]entry)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.reload(); err != nil { // not to overwrite the change of another process
		return err
	}
	all := maps.Clone(b.entries)
	edit(all)
	if err := atomicfile.Write(b.path, []byte(format(all)), 0o600); err != nil {
		return fmt.Errorf("passwords: %w", err)
	}
	info, err := os.Stat(b.path)
	if err != nil {
		return fmt.Errorf("passwords: %w", err)
	}
	b.entries, b.seen = all, info
	return nil
}

// Lookup returns the entry of name, if it has a password.
func (b *Book) Lookup(name string) (Entry, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refresh()
	e, ok := b.entries[name]
	return e.Entry, ok
}

// List returns all entries, sorted by name.
func (b *Book) List() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refresh()
	list := make([]Entry, 0, len(b.entries))
	for _, e := range sorted(b.entries) {
		list = append(list, e.Entry)
	}
	return list
}

// Check returns the entry of name if password is its own, for a client at the
// address from. An unknown name takes as long as a wrong password. Failures are
// bounded per address and per name: beyond that the answer is ErrOften without a
// look at the password. It waits for its turn, up to five seconds.
func (b *Book) Check(ctx context.Context, name string, password []byte, from string) (Entry, error) {
	if len(name) > maxName {
		name = ""
	}
	giveBack, ok := b.failed.charge(name, from, time.Now())
	if !ok {
		return Entry{}, ErrOften
	}
	b.mu.Lock()
	b.refresh()
	e, known := b.entries[name]
	remembered := known && b.memories.recall(e, password)
	b.mu.Unlock()
	if remembered {
		giveBack()
		return e.Entry, nil
	}
	done, err := b.turn(ctx)
	if err != nil {
		giveBack()
		return Entry{}, err
	}
	defer done()
	if !known {
		b.nobody.matches(password)
		return Entry{}, ErrUnknown
	}
	if !e.hash.matches(password) {
		return Entry{}, ErrWrong
	}
	giveBack()
	b.failed.succeeded(name, from)
	b.mu.Lock()
	b.memories.remember(e, password)
	b.mu.Unlock()
	return e.Entry, nil
}

// turn waits until a hash may be computed; the caller says when it is.
func (b *Book) turn(ctx context.Context) (done func(), err error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case b.slots <- struct{}{}:
		return func() { <-b.slots }, nil
	case <-late.C:
		return nil, ErrBusy
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// memories are of passwords that were right, so that the clients of a site that
// was cut off do not take minutes to come back: a keyed digest each, compared
// only with the same entry of the file.
type memories struct {
	key     []byte
	digests map[string]memory
}

type memory struct {
	key    []byte // of the hash that the password matched
	digest []byte
}

const maxMemories = 16 << 10

func newMemories() memories {
	m := memories{key: make([]byte, 32), digests: make(map[string]memory)}
	_, _ = rand.Read(m.key) // never fails (crypto/rand)
	return m
}

func (m memories) digest(e entry, password []byte) []byte {
	mac := hmac.New(sha256.New, m.key)
	mac.Write(e.hash.key)
	mac.Write(password)
	return mac.Sum(nil)
}

func (m memories) remember(e entry, password []byte) {
	for old := range m.digests { // any will do: a forgotten name costs one full hash
		if len(m.digests) < maxMemories {
			break
		}
		delete(m.digests, old)
	}
	m.digests[e.Name] = memory{e.hash.key, m.digest(e, password)}
}

func (m memories) recall(e entry, password []byte) bool {
	had, ok := m.digests[e.Name]
	return ok && bytes.Equal(had.key, e.hash.key) && hmac.Equal(had.digest, m.digest(e, password))
}
