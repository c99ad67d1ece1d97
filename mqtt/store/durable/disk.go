package durable

import (
	"cmp"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk stands between a database and its file system, because Pebble ends the
// process when its log or manifest cannot be written, in places where that
// cannot be caught. From the first write that fails, what Pebble writes goes
// nowhere, so that the files stay as a lost power supply would leave them, and
// the writers of tables are held up until the database is given up; reading goes
// on. (A database that is just being opened would try to write its tables for
// ever. It gets to write them to memory, and is closed then.) The committer asks
// err before it believes in a commit, and opens the files anew with another disk.
//
// It keeps a copy of each manifest too; see copiedFile.
//
// What the log got after the last acknowledged commit was refused to those who
// sent it. So the next disk shows the log only up to there.
type disk struct {
	vfs.FS
	dir   string
	shown mark          // of an earlier disk; zero is all
	lost  chan struct{} // closed at the first failure

	mu       sync.Mutex
	failure  error
	log      mark          // how far the log was written
	serving  bool          // the database is open
	released chan struct{} // closed when the database is given up
	tables   *vfs.MemFS    // those of a database that failed to open
}

// mark is a place in the log: so many bytes of the file with this path.
type mark struct {
	path string
	size int64
}

func newDisk(fs vfs.FS, dir string, shown mark) *disk {
	return &disk{FS: fs, dir: dir, shown: shown, lost: make(chan struct{}), released: make(chan struct{}), tables: vfs.NewMem()}
}

// fail notes the first failure.
func (d *disk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failure == nil {
		d.failure = err
		close(d.lost)
	}
}

// err returns the first failure.
func (d *disk) err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failure
}

// serve ends the opening of the database. Until then nobody is held up.
func (d *disk) serve() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serving = true
}

// position returns how far the log was written.
func (d *disk) position() mark {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log
}

// wrote notes the outcome of a write to a file, or to a directory, and returns
// what the writer is told.
func (d *disk) wrote(name string, err error) error {
	if !d.owns(name) {
		return cmp.Or(err, d.err())
	}
	if err != nil {
		d.fail(err)
	}
	if err = d.err(); err == nil || !isTable(name) {
		return nil
	}
	if d.isServing() {
		<-d.released // there is no way to stop Pebble trying at once again
	}
	return err
}

// owns reports whether a file, or a directory, is the database's. Others are a
// backup's, which copes with errors.
func (d *disk) owns(name string) bool { return name == d.dir || d.PathDir(name) == d.dir }

func (d *disk) isServing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.serving
}

// isTable reports whether Pebble copes with an error of this file.
func isTable(name string) bool {
	return strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob")
}

func isLog(name string) bool { return strings.HasSuffix(name, ".log") }

// file wraps a file that was opened for writing.
func (d *disk) file(name string, f vfs.File, err error) (vfs.File, error) {
	if told := d.wrote(name, err); told != nil {
		return nil, told
	}
	if d.err() != nil {
		f = vfs.NewMemFile(nil) // takes nothing: see diskFile
	} else if isLog(name) && d.owns(name) {
		d.mu.Lock()
		d.log = mark{path: name}
		d.mu.Unlock()
	}
	return &diskFile{File: f, disk: d, name: name}, nil
}

// Create implements [vfs.FS].
func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if d.err() != nil {
		if isTable(name) && !d.isServing() {
			return d.tables.Create(d.PathBase(name), c)
		}
		return d.file(name, nil, nil)
	}
	if isMarker(d.PathBase(name)) { // what it names is to be there if it is
		if err := syncDir(d.FS, d.PathDir(name)); err != nil {
			return d.file(name, nil, err)
		}
	}
	f, err := d.FS.Create(name, c)
	if err == nil && isManifest(d.PathBase(name)) {
		f = withCopy(d.FS, name, f, c)
	}
	return d.file(name, f, err)
}

// OpenReadWrite implements [vfs.FS].
func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	if d.err() != nil {
		return d.file(name, nil, nil)
	}
	f, err := d.FS.OpenReadWrite(name, c, o...)
	return d.file(name, f, err)
}

// ReuseForWrite implements [vfs.FS].
func (d *disk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if d.err() != nil {
		return d.file(to, nil, nil)
	}
	f, err := d.FS.ReuseForWrite(from, to, c)
	return d.file(to, f, err)
}

// OpenDir implements [vfs.FS].
func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, disk: d, name: name}, nil
}

// Open implements [vfs.FS].
func (d *disk) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	if d.err() != nil {
		if f, err := d.tables.Open(d.PathBase(name)); err == nil {
			return f, nil
		}
	}
	f, err := d.FS.Open(name, o...)
	if err == nil && name == d.shown.path {
		return &shortFile{File: f, left: d.shown.size}, nil
	}
	return f, err
}

// Stat implements [vfs.FS].
func (d *disk) Stat(name string) (vfs.FileInfo, error) {
	if d.err() != nil {
		if i, err := d.tables.Stat(d.PathBase(name)); err == nil {
			return i, nil
		}
	}
	return d.FS.Stat(name)
}

// Rename implements [vfs.FS].
func (d *disk) Rename(from, to string) error {
	return d.change(to, func() error { return d.FS.Rename(from, to) })
}

// MkdirAll implements [vfs.FS].
func (d *disk) MkdirAll(dir string, perm os.FileMode) error {
	return d.change(dir, func() error { return d.FS.MkdirAll(dir, perm) })
}

// Remove implements [vfs.FS]. Pebble bears with files that stay.
func (d *disk) Remove(name string) error {
	if d.err() != nil {
		return nil
	}
	if isManifest(d.PathBase(name)) {
		_ = d.FS.Remove(name + copied)
	}
	return d.FS.Remove(name)
}

// RemoveAll implements [vfs.FS].
func (d *disk) RemoveAll(name string) error {
	if d.err() != nil {
		return nil
	}
	return d.FS.RemoveAll(name)
}

// Link implements [vfs.FS]. Only a backup links, and it copes with an error.
func (d *disk) Link(from, to string) error {
	if err := d.err(); err != nil {
		return err
	}
	return d.FS.Link(from, to)
}

// Lock implements [vfs.FS]: the store holds the lock, for one database after the
// other.
func (d *disk) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// Unwrap implements [vfs.FS].
func (d *disk) Unwrap() vfs.FS { return d.FS }

func (d *disk) change(name string, f func() error) error {
	if d.err() != nil {
		return d.wrote(name, nil)
	}
	return d.wrote(name, f())
}

// diskFile is a file that was opened for writing, or a directory.
type diskFile struct {
	vfs.File
	disk *disk
	name string
}

// Write implements [vfs.File].
func (f *diskFile) Write(p []byte) (int, error) {
	var n int
	err := f.change(func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	if err != nil {
		return n, err
	}
	if isLog(f.name) {
		f.disk.mu.Lock()
		if f.disk.failure == nil && f.disk.log.path == f.name {
			f.disk.log.size += int64(n)
		}
		f.disk.mu.Unlock()
	}
	return len(p), nil
}

// WriteAt implements [vfs.File].
func (f *diskFile) WriteAt(p []byte, at int64) (int, error) {
	err := f.change(func() error {
		_, err := f.File.WriteAt(p, at)
		return err
	})
	return len(p), err
}

// Sync implements [vfs.File].
func (f *diskFile) Sync() error { return f.change(f.File.Sync) }

// SyncData implements [vfs.File].
func (f *diskFile) SyncData() error { return f.change(f.File.SyncData) }

// SyncTo implements [vfs.File].
func (f *diskFile) SyncTo(length int64) (full bool, err error) {
	err = f.change(func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Preallocate implements [vfs.File]. It saves time and is not needed.
func (f *diskFile) Preallocate(at, length int64) error {
	if f.disk.err() != nil {
		return nil
	}
	return f.File.Preallocate(at, length)
}

func (f *diskFile) change(do func() error) error {
	if f.disk.err() != nil {
		return f.disk.wrote(f.name, nil)
	}
	return f.disk.wrote(f.name, do())
}

// shortFile is a log that ends early.
type shortFile struct {
	vfs.File
	left int64
}

// Read implements [vfs.File].
func (f *shortFile) Read(p []byte) (int, error) {
	if f.left <= 0 {
		return 0, io.EOF
	}
	n, err := f.File.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, err
}

// ReadAt implements [vfs.File].
func (f *shortFile) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

// dropLogsAfter removes the logs that were begun after m.
func dropLogsAfter(fs vfs.FS, dir string, m mark) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	last := logNumber(fs.PathBase(m.path))
	for _, name := range names {
		if isLog(name) && logNumber(name) > last {
			if err := fs.Remove(fs.PathJoin(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// logNumber returns the number of a log from the name of its file.
func logNumber(name string) uint64 {
	digits, _, _ := strings.Cut(name, ".")
	n, _ := strconv.ParseUint(digits, 10, 64) // 0 is no log's
	return n
}
