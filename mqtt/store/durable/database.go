package durable

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/store"
)

const (
	memTableSize   = 16 << 20
	maxManifest    = 4 << 20 // a start reads it whole, and there are two of it
	queuedTables   = 4       // memory tables that may wait to be written before commits wait
	queuedSublevel = 20      // the same for tables that wait to be sorted in
)

// database is one opening of the files. A failed disk costs it, and another one
// takes its place.
type database struct {
	*pebble.DB
	disk     *disk
	progress chan struct{} // capacity 1: a table was written
	written  int           // bytes since the last look at what waits
	replaced chan struct{} // closed when reads go to another database
	damaged  atomic.Bool

	working sync.WaitGroup // those who use it without holding readers

	readers sync.RWMutex     // held for reading by those who read, for writing to close
	before  *pebble.Snapshot // what was there before the commit that failed
	closed  bool
}

// openDatabase opens the files in dir, without what the log got after shown.
func openDatabase(fs vfs.FS, dir string, shown mark, log logrus.FieldLogger) (*database, error) {
	dir = filepath.Clean(dir) // as it is in the names of files
	d := newDisk(fs, dir, shown)
	db := &database{disk: d, progress: make(chan struct{}, 1), replaced: make(chan struct{})}
	o := &pebble.Options{
		FS: d, Logger: logger{log, d}, FormatMajorVersion: pebble.FormatTableFormatV6,
		MemTableSize: memTableSize, L0CompactionThreshold: 4,
		MaxManifestFileSize: maxManifest,
		// The database must not make a commit wait: only throttle knows when the
		// disk has failed and there is nothing to wait for.
		MemTableStopWritesThreshold: 8 * queuedTables, L0StopWritesThreshold: 50 * queuedSublevel,
	}
	o.EventListener = &pebble.EventListener{
		FlushEnd:       func(pebble.FlushInfo) { db.poke() },
		CompactionEnd:  func(pebble.CompactionInfo) { db.poke() },
		DataCorruption: func(i pebble.DataCorruptionInfo) { db.corrupted(i, log) },
	}
	renewCopy(fs, dir)
	dropOptions(fs, dir)
	var err error
	if db.DB, err = pebble.Open(dir, o); err == nil {
		if err = d.err(); err == nil {
			d.serve()
			return db, nil
		}
		close(d.released)
		_ = db.Close() // it did not take place
	}
	if failure := d.err(); failure != nil {
		err = failure
	}
	return nil, diskError(dir, err)
}

// dropOptions removes what Pebble wrote down of its options. It writes them anew,
// and would not open the files if a bit of that text had changed.
func dropOptions(fs vfs.FS, dir string) {
	names, _ := fs.List(dir) // Pebble says better what is wrong
	for _, name := range names {
		if strings.HasPrefix(name, "OPTIONS-") {
			_ = fs.Remove(fs.PathJoin(dir, name))
		}
	}
}

// diskError says which directory failed, and whether there was no room.
func diskError(dir string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("store in %s: %w: %w", dir, store.ErrNoSpace, err)
	}
	return fmt.Errorf("store in %s: %w", dir, err)
}

func (db *database) poke() {
	select {
	case db.progress <- struct{}{}:
	default:
	}
}

// corrupted notes that a table cannot be read. It is said once.
func (db *database) corrupted(i pebble.DataCorruptionInfo, log logrus.FieldLogger) {
	if !db.damaged.Swap(true) {
		log.WithField(logfield.File, i.Path).WithField(logfield.Reason, i.Details.Error()).
			Error("a file of the store is damaged: messages in it are lost; it is set aside at the next start")
	}
}

// throttle waits while tables are written more slowly than messages come.
func (db *database) throttle(size int) {
	if db.written += size; db.written < memTableSize/4 {
		return
	}
	db.written = 0
	for {
		m := db.Metrics()
		if m.MemTable.Size < queuedTables*memTableSize && m.Levels[0].Sublevels < queuedSublevel {
			return
		}
		select {
		case <-db.progress:
		case <-db.disk.lost:
			return
		}
	}
}

// size returns how many bytes the files take, and how many of them are in use: the
// others are logs that will be written over. Pebble counts the log that is being
// written as it was when that began.
func (db *database) size() (all, used uint64) {
	m := db.Metrics()
	log := m.WAL.PhysicalSize + m.WAL.ObsoletePhysicalSize
	all = m.DiskSpaceUsage() + max(m.WAL.Size, m.WAL.PhysicalSize) - m.WAL.PhysicalSize
	return all, m.DiskSpaceUsage() - log + m.WAL.Size
}

// commit writes the batch and reports whether it is there. Pebble shows a batch
// before it is synced; after a failure reads see what was there before.
func (db *database) commit(b *pebble.Batch, o *pebble.WriteOptions) error {
	db.throttle(b.Len())
	before := db.NewSnapshot()
	if err := db.Apply(b, o); err != nil {
		db.disk.fail(err)
	}
	err := db.disk.err()
	if err == nil {
		return before.Close()
	}
	db.readers.Lock()
	defer db.readers.Unlock()
	db.before = before
	return err
}

// iterate returns an iterator over what was committed. The caller holds readers.
func (db *database) iterate(o *pebble.IterOptions) (*pebble.Iterator, error) {
	if db.before != nil {
		return db.before.NewIter(o)
	}
	return db.NewIter(o)
}

// release gives the database up, after readers were sent to another one.
func (db *database) release() error {
	close(db.replaced)
	close(db.disk.released)
	db.readers.Lock()
	db.closed = true
	if db.before != nil {
		_ = db.before.Close()
	}
	db.readers.Unlock()
	db.working.Wait()
	return db.Close()
}

// logger takes what Pebble has to say. It tells its successes too; those are
// left out.
type logger struct {
	log  logrus.FieldLogger
	disk *disk
}

func (l logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	if l.disk.err() == nil { // else it is a consequence
		l.log.WithField(logfield.Reason, fmt.Sprintf(format, args...)).Error("the store's database reports an error")
	}
}

// Fatalf is called where Pebble expects the process to end. Instead the database
// counts as lost; what it does until it is closed reaches no file.
func (l logger) Fatalf(format string, args ...any) { l.disk.fail(fmt.Errorf(format, args...)) }
