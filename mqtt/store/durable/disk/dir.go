package disk

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"
)

// ErrClosed is the error of a call for a [Database] that was released.
var ErrClosed = errors.New("store is closed")

// ErrDamaged is wrapped by the error of [Dir.Open] and [Dir.Reopen] if the manifest
// and its copy are damaged, so that it is not known which tables count: restore a
// backup, or begin anew.
var ErrDamaged = errors.New("files are damaged")

// Options configures a [Dir]. All fields are required.
type Options struct {
	FS      vfs.FS             // on which the directory lies
	Log     logrus.FieldLogger // damage, repairs and lost room
	Reserve uint64             // bytes of the disk that stay free; at most a quarter of the disk
	NoSpace error              // wrapped, beside the cause, by each error for want of room

	// Copied adds to the batch the changes that turn a copy of the database into a
	// database of its own. The batch is the last that a repair or a backup writes.
	Copied func(db *Database, b *pebble.Batch) error
}

// Dir is the directory of a database, which is in use by one process. Its methods
// are for one goroutine at a time, except Backup and Failed.
type Dir struct {
	path    string
	fs      vfs.FS
	log     logrus.FieldLogger
	reserve uint64
	noSpace error
	copied  func(*Database, *pebble.Batch) error
	lock    io.Closer
}

// Lock takes the directory into use, and fails if another process uses it. Its
// parent is made if need be.
func Lock(path string, o Options) (*Dir, error) {
	d := &Dir{path: path, fs: o.FS, log: o.Log, reserve: o.Reserve, noSpace: o.NoSpace, copied: o.Copied}
	err := d.fs.MkdirAll(d.fs.PathDir(path), 0o700)
	if err != nil {
		return nil, d.Failed(err)
	}
	// The lock lies beside the directory, which a repair renames.
	if d.lock, err = d.fs.Lock(path + ".lock"); err != nil {
		return nil, fmt.Errorf("lock store in %s, perhaps another process uses it: %w", path, err)
	}
	return d, nil
}

// Unlock ends the use of the directory. Its databases must have been released.
func (d *Dir) Unlock() error { return d.lock.Close() }

// Open opens the database, or makes one if the directory is empty or missing, and
// has load read it. If load returns an error of damage, see [IsDamage], the database
// is repaired and loaded once more: load must be able to begin again. A full disk
// costs the ballast. Open returns errors of the disk, of damage that cannot be
// repaired, and those of load, all with the path.
func (d *Dir) Open(load func(*Database) error) (*Database, error) {
	db, err := d.openFiles(load)
	if errors.Is(err, d.noSpace) && d.dropBallast(err) {
		db, err = d.openFiles(load)
	}
	return db, err
}

// openFiles opens and loads the database, after a repair if need be.
func (d *Dir) openFiles(load func(*Database) error) (*Database, error) {
	if err := d.finishRepair(); err != nil {
		return nil, err
	}
	if err := d.fs.MkdirAll(d.path, 0o700); err != nil {
		return nil, d.Failed(err)
	}
	readable, err := d.checkFiles()
	if err != nil {
		return nil, d.explain(err)
	}
	db, err := d.openDatabase(d.path, readable)
	if err != nil {
		return nil, d.explain(err)
	}
	if err = load(db); err == nil {
		return db, nil
	}
	_ = db.Release()
	if !IsDamage(err) {
		return nil, d.Failed(err)
	}
	if err := d.repair(err); err != nil {
		return nil, err
	}
	if db, err = d.openDatabase(d.path, Mark{}); err != nil {
		return nil, d.explain(err)
	}
	if err = load(db); err != nil {
		_ = db.Release()
		return nil, d.Failed(err)
	}
	return db, nil
}

// Reopen opens a second database beside one that failed, with the log up to synced,
// and commits the batches, which came after that, one by one. The failed database
// can be read until it is released.
func (d *Dir) Reopen(synced Mark, batches [][]byte) (*Database, error) {
	if err := d.recheckManifest(); err != nil {
		return nil, d.explain(err)
	}
	if err := dropLogsAfter(d.fs, d.path, synced); err != nil {
		return nil, d.Failed(err)
	}
	db, err := d.openDatabase(d.path, synced)
	if err != nil {
		return nil, err
	}
	for _, repr := range batches {
		b := db.NewBatch()
		err := b.SetRepr(append([]byte(nil), repr...))
		if err == nil {
			err = db.Commit(b, pebble.Sync)
		}
		if err != nil {
			_ = db.Release()
			return nil, d.Failed(err)
		}
		_ = b.Close()
	}
	return db, nil
}

// Backup writes a copy of the committed keys of db to a directory, which must not
// exist and is on the same file system. The copy shares the tables of db until they change. It
// may run beside the use of db, and a failure of it costs db nothing.
func (d *Dir) Backup(db *Database, to string) error {
	if !db.begin() {
		return ErrClosed
	}
	defer db.working.Done()
	if err := db.pebble.Checkpoint(to, pebble.WithFlushedWAL()); err != nil {
		return fmt.Errorf("back up store to %s: %w", to, err)
	}
	if err := db.Err(); err != nil {
		return fmt.Errorf("back up store to %s: %w", to, err)
	}
	return d.finishBackup(to)
}

// finishBackup makes the checkpoint in a directory a database of its own.
func (d *Dir) finishBackup(dir string) error {
	db, err := d.openDatabase(dir, Mark{})
	if err != nil {
		return fmt.Errorf("back up store: %w", err)
	}
	b := db.NewBatch()
	if err = d.copied(db, b); err == nil {
		err = db.Commit(b, pebble.Sync)
	}
	if closeErr := db.Release(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("back up store to %s: %w", dir, err)
	}
	return nil
}

// Room returns why the disk has no room for the database to grow, or nil. It makes
// the ballast if there is plenty.
func (d *Dir) Room() error {
	u, err := d.fs.GetDiskUsage(d.path)
	if err == nil && u.AvailBytes < d.reserveOf(u.TotalBytes) {
		return fmt.Errorf("store in %s: %w: %d MiB are left on the disk", d.path, d.noSpace, u.AvailBytes>>20)
	}
	if err == nil {
		d.keepBallast(u)
	}
	return nil
}

// Failed adds the path to an error of the disk, and NoSpace if the cause is a full
// disk or quota.
func (d *Dir) Failed(err error) error { return d.failedIn(d.path, err) }

func (d *Dir) failedIn(dir string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("store in %s: %w: %w", dir, d.noSpace, err)
	}
	return fmt.Errorf("store in %s: %w", dir, err)
}

// explain marks damage that keeps a database from opening.
func (d *Dir) explain(err error) error {
	if IsDamage(err) {
		return fmt.Errorf("store in %s: %w: %w", d.path, ErrDamaged, err)
	}
	return err
}

// IsDamage reports whether err is about the content of a file.
func IsDamage(err error) bool {
	_, damaged := errors.AsType[*damagedFile](err)
	return damaged || errors.Is(err, errNoManifest) || pebble.IsCorruptionError(err)
}

// openDatabase opens the files in dir, without the end of the log behind shown.
func (d *Dir) openDatabase(dir string, shown Mark) (*Database, error) {
	dir = filepath.Clean(dir) // as it is in the names of files
	db, err := openDatabase(d.fs, dir, shown, d.log)
	if err != nil {
		return nil, d.failedIn(dir, err)
	}
	return db, nil
}
