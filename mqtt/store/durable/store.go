package durable

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/durable/disk"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// ErrClosed is the error of a transaction that came after [Store.Run] ended.
var ErrClosed = disk.ErrClosed

// ErrDamaged is wrapped by the error of [Open] if the manifest and its copy are
// damaged, so that the contents of the files are unknown: restore a backup, or begin
// anew.
var ErrDamaged = disk.ErrDamaged

// Options configures a [Store]. Zero values are usable.
type Options struct {
	Limits store.Limits
	Log    logrus.FieldLogger // nil discards

	// Cache bounds the bytes of queued messages that are held in memory beside
	// the disk. Zero means 64 MiB.
	Cache int

	// Reserve is the room on the disk that transactions which add to the store leave
	// free, so that subscribers can empty their queues and the tables can shrink. Zero
	// means 128 MiB. It is at most a quarter of the disk.
	Reserve uint64

	// MaxDisk bounds the bytes that the files take. Beyond it, additions are refused as
	// on a disk that is nearly full, until the files take fifteen sixteenths of it.
	// Zero is no bound. Logs that wait to be written over, some tens of MiB, and tables
	// that are being sorted come on top.
	MaxDisk uint64

	fs    vfs.FS        // nil is the operating system's
	retry time.Duration // before the files of a failed disk are opened again; 0 is retryDelay
}

// Store is a [store.Store] on disk.
type Store struct {
	dir     string
	options Options
	limits  store.Limits
	log     logrus.FieldLogger
	files   *disk.Dir

	jobsMu  sync.Mutex
	jobs    []*tx         // waiting for the committer
	urgent  bool          // a caller waits for one of jobs
	ended   bool          // Run ended
	late    []*tx         // transactions that came after the end of Run
	telling bool          // a goroutine calls back
	wake    chan struct{} // capacity 1; taken by the committer

	db atomic.Pointer[disk.Database] // set by the committer

	committer // of the goroutine in Run
	staging   staging

	mu              sync.Mutex // guards all below
	sessions        map[store.SessionKey]*session
	retained        topic.Names[store.Message]
	tombs           map[string]*store.Message // by topic
	retainedExpires int                       // how many retained messages ever expire
	peers           map[string]*peer
	floors          map[laneKey]store.Origin
	values          store.Values
	totals          totals
	stats           store.Stats
	held            int // bytes of the sessions, without their queues
	cache           cache
	commits         uint64 // staged
	sessionID       uint64 // the last that was given to a session
}

var _ store.Store = (*Store)(nil)

// Open opens the store in dir, which is made if need be. The directory is in use by one
// store at a time.
//
// A log that ends in the middle of a record, as after a lost power supply, ends before
// that record; it was never acknowledged. A damaged table is set aside with the whole
// directory, under a name that tells when. The readable rest is copied to a new
// directory, and the log reports both. A damaged log is read up to the damage, set
// aside and reported. A damaged manifest is set aside and reported, and its copy takes
// its place. If the copy is damaged too, it is unknown which tables count, and the
// error names the directory.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{dir: dir, options: o, limits: o.Limits.WithDefaults(), log: o.Log, wake: make(chan struct{}, 1)}
	s.log = logfield.OrSilent(s.log)
	if s.options.Cache == 0 {
		s.options.Cache = 64 << 20
	}
	if s.options.Reserve == 0 {
		s.options.Reserve = 128 << 20
	}
	if s.options.retry == 0 {
		s.options.retry = retryDelay
	}
	if s.options.fs == nil {
		s.options.fs = vfs.Default
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) open() (err error) {
	o := &s.options
	s.files, err = disk.Lock(s.dir, disk.Options{
		FS: o.fs, Log: s.log, Reserve: o.Reserve, NoSpace: store.ErrNoSpace, Copied: beginHistory,
	})
	if err != nil {
		return err
	}
	db, err := s.files.Open(s.load)
	if err != nil {
		_ = s.files.Unlock()
		return err
	}
	s.db.Store(db)
	s.begin(db)
	s.timers, s.makeRoom = newTimers(), disk.NewReclaimer()
	return nil
}

// Close releases the files. Run must have ended, or never have begun: then transactions
// that were handed in are refused.
func (s *Store) Close() error {
	s.jobsMu.Lock()
	s.ended = true
	s.late = append(s.late, s.jobs...)
	s.jobs = nil
	s.jobsMu.Unlock()
	s.refuseLate()
	err := s.db.Load().Release()
	return errors.Join(err, s.files.Unlock())
}

// Update implements [store.Store]. It calls add before it returns, in the
// caller's goroutine; several such calls may run at a time. It never waits:
// callers that publish without waiting for done fill the memory. A transaction
// without done is written with the next batch, or after a moment, and not synced
// at once.
func (s *Store) Update(add func(store.Tx), done func(error)) {
	t := txPool.Get().(*tx)
	add(t)
	t.done = done
	s.submit(t)
}

// Sweep implements [store.Store]. Expired messages are gone with the next batch.
func (s *Store) Sweep(now time.Time) {
	t := txPool.Get().(*tx)
	t.ops = append(t.ops, op{kind: opSweep, now: now})
	s.submit(t)
}

func (s *Store) submit(t *tx) {
	s.jobsMu.Lock()
	if s.ended {
		s.late = append(s.late, t)
		s.jobsMu.Unlock()
		s.refuseLate()
		return
	}
	s.jobs = append(s.jobs, t)
	news := len(s.jobs) == 1 || t.done != nil && !s.urgent
	s.urgent = s.urgent || t.done != nil
	s.jobsMu.Unlock()
	if news {
		s.poke()
	}
}

// DiskBytes returns how many bytes the files take.
func (s *Store) DiskBytes() uint64 {
	all, _ := s.db.Load().Size()
	return all
}

// peer returns the log of a peer, made at its first use. The caller holds mu.
func (s *Store) peer(name string) *peer {
	p := s.peers[name]
	if p == nil {
		p = newPeer(name)
		s.peers[name] = p
	}
	return p
}

// Backup writes a copy of all committed data to dir, which must not exist and is on the
// same file system. The store serves on meanwhile; the copy shares its tables until
// they change. Values of [store.OfHistory] are not in it.
func (s *Store) Backup(dir string) error {
	return s.files.Backup(s.db.Load(), dir)
}
