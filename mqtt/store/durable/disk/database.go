package disk

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
)

const (
	memTableSize   = 16 << 20
	maxManifest    = 4 << 20 // a start reads it whole, and there are two of it
	queuedTables   = 4       // memory tables that may wait to be written before commits wait
	queuedSublevel = 20      // the same for tables that wait to be sorted in
)

// Database is one opening of the files. It is over with the first write that the
// disk refuses, and another one takes its place.
//
// One goroutine commits; all other methods may be called from any goroutine.
type Database struct {
	pebble   *pebble.DB
	guard    *guard
	progress wake.Token    // a table was written
	written  int           // bytes since throttle looked
	replaced chan struct{} // closed when reads go to another database
	damaged  atomic.Bool

	working sync.WaitGroup // backups and compactions, which do not hold readers

	readers sync.RWMutex     // held for reading by reads, for writing to close
	before  *pebble.Snapshot // of the moment before the commit that failed
	closed  bool
}

// openDatabase opens the files in dir, which is as [filepath.Clean] returns it.
func openDatabase(fs vfs.FS, dir string, shown Mark, log logrus.FieldLogger) (*Database, error) {
	g := newGuard(fs, dir, shown)
	db := &Database{guard: g, progress: wake.NewToken(), replaced: make(chan struct{})}
	o := &pebble.Options{
		FS: g, Logger: logger{log, g}, FormatMajorVersion: format,
		MemTableSize: memTableSize, L0CompactionThreshold: 4,
		MaxManifestFileSize: maxManifest,
		// The database must not make a commit wait: only throttle knows when the
		// disk has failed and there is nothing to wait for.
		MemTableStopWritesThreshold: 8 * queuedTables, L0StopWritesThreshold: 50 * queuedSublevel,
	}
	o.EventListener = &pebble.EventListener{
		FlushEnd:       func(pebble.FlushInfo) { db.progress.Wake() },
		CompactionEnd:  func(pebble.CompactionInfo) { db.progress.Wake() },
		DataCorruption: func(i pebble.DataCorruptionInfo) { db.corrupted(i, log) },
	}
	renewCopy(fs, dir)
	dropOptions(fs, dir)
	var err error
	if db.pebble, err = pebble.Open(dir, o); err == nil {
		if err = g.err(); err == nil {
			g.serve()
			return db, nil
		}
		close(g.released)
		_ = db.pebble.Close() // it did not take place
	}
	if failure := g.err(); failure != nil {
		err = failure
	}
	return nil, err
}

// dropOptions removes the files in which Pebble noted its options. It writes them
// anew, and would not open the database if a bit of that text had changed.
func dropOptions(fs vfs.FS, dir string) {
	names, _ := fs.List(dir) // Pebble reports this error better
	for _, name := range names {
		if strings.HasPrefix(name, "OPTIONS-") {
			_ = fs.Remove(fs.PathJoin(dir, name))
		}
	}
}

// NewBatch returns an empty batch for Commit.
func (db *Database) NewBatch() *pebble.Batch { return db.pebble.NewBatch() }

// Commit writes the batch and returns nil if it is there: on the disk, if o is
// [pebble.Sync]. After an error reads see the keys from before the batch, and the
// database takes no further commit. The caller closes a batch that is there. Commit
// waits while tables are written more slowly than batches come, but never for a disk
// that has failed.
func (db *Database) Commit(b *pebble.Batch, o *pebble.WriteOptions) error {
	db.throttle(b.Len())
	before := db.pebble.NewSnapshot() // Pebble shows a batch before it is synced
	if err := db.pebble.Apply(b, o); err != nil {
		db.guard.fail(err)
	}
	err := db.guard.err()
	if err == nil {
		return before.Close()
	}
	db.readers.Lock()
	defer db.readers.Unlock()
	db.before = before
	return err
}

// throttle waits while tables are written more slowly than batches come.
func (db *Database) throttle(size int) {
	if db.written += size; db.written < memTableSize/4 {
		return
	}
	db.written = 0
	for {
		m := db.pebble.Metrics()
		if m.MemTable.Size < queuedTables*memTableSize && m.Levels[0].Sublevels < queuedSublevel {
			return
		}
		select {
		case <-db.progress:
		case <-db.guard.lost:
			return
		}
	}
}

// View calls read with an iterator over the committed keys within the bounds of o;
// nil is all. The iterator, its keys and its values are valid until read returns. View
// keeps the database open, and fails with [ErrClosed] once it is released. Beside a
// Commit it may see the batch before Commit returns.
func (db *Database) View(o *pebble.IterOptions, read func(*pebble.Iterator) error) error {
	db.readers.RLock()
	defer db.readers.RUnlock()
	if db.closed {
		return ErrClosed
	}
	var it *pebble.Iterator
	var err error
	if db.before != nil {
		it, err = db.before.NewIter(o)
	} else {
		it, err = db.pebble.NewIter(o)
	}
	if err != nil {
		return err
	}
	return errors.Join(read(it), it.Close())
}

// Get returns a copy of the value of a committed key, and [pebble.ErrNotFound] if
// there is none.
func (db *Database) Get(key []byte) (value []byte, err error) {
	end := append(slices.Clone(key), 0)
	err = db.View(&pebble.IterOptions{LowerBound: key, UpperBound: end}, func(it *pebble.Iterator) error {
		if !it.First() {
			return it.Error()
		}
		v, err := it.ValueAndErr()
		value = append([]byte{}, v...)
		return err
	})
	if err == nil && value == nil {
		err = pebble.ErrNotFound
	}
	return value, err
}

// Err returns the first write that the disk refused, or nil.
func (db *Database) Err() error { return db.guard.err() }

// Lost is closed at the first write that the disk refuses.
func (db *Database) Lost() <-chan struct{} { return db.guard.lost }

// Position returns how far the log was written. After a synced commit, and before
// the next commit, the log is synced up to there.
func (db *Database) Position() Mark { return db.guard.position() }

// Size returns how many bytes the files take, and how many of them are in use: the
// rest are logs that wait to be written over. A database that is released has none.
func (db *Database) Size() (all, used uint64) {
	db.readers.RLock()
	defer db.readers.RUnlock()
	if db.closed {
		return 0, 0
	}
	m := db.pebble.Metrics()
	log := m.WAL.PhysicalSize + m.WAL.ObsoletePhysicalSize
	// Pebble counts the log that is being written as it was when that began.
	all = m.DiskSpaceUsage() + max(m.WAL.Size, m.WAL.PhysicalSize) - m.WAL.PhysicalSize
	return all, m.DiskSpaceUsage() - log + m.WAL.Size
}

// Flush writes the keys that are only in the log to tables.
func (db *Database) Flush() error { return db.pebble.Flush() }

// Release closes the database, once, after reads were sent to another one, if there
// is one. It waits for the calls that are under way. Its error means nothing after a
// write was refused.
func (db *Database) Release() error {
	close(db.replaced)
	close(db.guard.released)
	db.readers.Lock()
	db.closed = true
	if db.before != nil {
		_ = db.before.Close()
	}
	db.readers.Unlock()
	db.working.Wait()
	return db.pebble.Close()
}

// begin reports whether the database is open, and keeps it so until working is
// done with.
func (db *Database) begin() bool {
	db.readers.RLock()
	defer db.readers.RUnlock()
	if !db.closed {
		db.working.Add(1)
	}
	return !db.closed
}

// corrupted notes that a table cannot be read. It is said once.
func (db *Database) corrupted(i pebble.DataCorruptionInfo, log logrus.FieldLogger) {
	if !db.damaged.Swap(true) {
		log.WithField(logfield.File, i.Path).WithField(logfield.Reason, i.Details.Error()).
			Error("a file of the store is damaged: messages in it are lost; it is set aside at the next start")
	}
}

// logger takes Pebble's messages. Its successes are left out.
type logger struct {
	log   logrus.FieldLogger
	guard *guard
}

func (l logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	if l.guard.err() == nil { // else it is a consequence
		l.log.WithField(logfield.Reason, fmt.Sprintf(format, args...)).Error("the store's database reports an error")
	}
}

// Fatalf is called where Pebble expects the process to end. Instead the database
// counts as lost, and none of its writes until it is closed reaches a file.
func (l logger) Fatalf(format string, args ...any) { l.guard.fail(fmt.Errorf(format, args...)) }
