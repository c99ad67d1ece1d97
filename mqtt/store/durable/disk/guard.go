package disk

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

// guard stands between a database and its file system, because Pebble ends the
// process when its log or manifest cannot be written, in places where that
// cannot be caught. From the first write that fails, all writes of Pebble go
// nowhere, so that the files stay as a lost power supply would leave them, and
// the writers of tables are held up until the database is released; reading goes
// on. (A database that is just being opened would try to write its tables for
// ever. It writes them to memory, and is closed then.) [Database.Commit] asks err
// before it believes in a commit, and [Dir.Reopen] opens the files with another
// guard.
//
// It keeps a copy of each manifest too; see copiedFile.
//
// A batch that reached the log after the last acknowledged commit was refused. So
// the next guard shows the log only up to that commit.
type guard struct {
	vfs.FS
	dir   string
	shown Mark          // of an earlier guard; zero is all
	lost  chan struct{} // closed at the first failure

	mu       sync.Mutex
	failure  error
	log      Mark          // how far the log was written
	serving  bool          // the database is open
	released chan struct{} // closed when the database is given up
	tables   *vfs.MemFS    // tables of a database that failed to open
}

// Mark is a place in the log: so many bytes of the file with this path.
type Mark struct {
	path string
	size int64
}

func newGuard(fs vfs.FS, dir string, shown Mark) *guard {
	return &guard{FS: fs, dir: dir, shown: shown, lost: make(chan struct{}), released: make(chan struct{}), tables: vfs.NewMem()}
}

// fail notes the first failure.
func (g *guard) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failure == nil {
		g.failure = err
		close(g.lost)
	}
}

// err returns the first failure.
func (g *guard) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failure
}

// serve ends the opening of the database. Until then no writer is held up.
func (g *guard) serve() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serving = true
}

// position returns how far the log was written.
func (g *guard) position() Mark {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log
}

// wrote notes the outcome of a write to a file, or to a directory, and returns
// the error for the writer.
func (g *guard) wrote(name string, err error) error {
	if !g.owns(name) {
		return cmp.Or(err, g.err())
	}
	if err != nil {
		g.fail(err)
	}
	if err = g.err(); err == nil || !isTable(name) {
		return nil
	}
	if g.isServing() {
		<-g.released // there is no way to stop Pebble trying at once again
	}
	return err
}

// owns reports whether a file, or a directory, is the database's. Else it
// is a backup's, and Pebble copes with errors of a backup.
func (g *guard) owns(name string) bool { return name == g.dir || g.PathDir(name) == g.dir }

func (g *guard) isServing() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.serving
}

// isTable reports whether Pebble copes with an error of this file.
func isTable(name string) bool {
	return strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob")
}

func isLog(name string) bool { return strings.HasSuffix(name, ".log") }

// file wraps a file that was opened for writing.
func (g *guard) file(name string, f vfs.File, err error) (vfs.File, error) {
	if told := g.wrote(name, err); told != nil {
		return nil, told
	}
	if g.err() != nil {
		f = vfs.NewMemFile(nil) // takes nothing: see guardedFile
	} else if isLog(name) && g.owns(name) {
		g.mu.Lock()
		g.log = Mark{path: name}
		g.mu.Unlock()
	}
	return &guardedFile{File: f, guard: g, name: name}, nil
}

// Create implements [vfs.FS].
func (g *guard) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if g.err() != nil {
		if isTable(name) && !g.isServing() {
			return g.tables.Create(g.PathBase(name), c)
		}
		return g.file(name, nil, nil)
	}
	if isMarker(g.PathBase(name)) { // a marker must not outlive the file that it names
		if err := syncDir(g.FS, g.PathDir(name)); err != nil {
			return g.file(name, nil, err)
		}
	}
	f, err := g.FS.Create(name, c)
	if err == nil && isManifest(g.PathBase(name)) {
		f = withCopy(g.FS, name, f, c)
	}
	return g.file(name, f, err)
}

// OpenReadWrite implements [vfs.FS].
func (g *guard) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	if g.err() != nil {
		return g.file(name, nil, nil)
	}
	f, err := g.FS.OpenReadWrite(name, c, o...)
	return g.file(name, f, err)
}

// ReuseForWrite implements [vfs.FS].
func (g *guard) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if g.err() != nil {
		return g.file(to, nil, nil)
	}
	f, err := g.FS.ReuseForWrite(from, to, c)
	return g.file(to, f, err)
}

// OpenDir implements [vfs.FS].
func (g *guard) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guardedFile{File: f, guard: g, name: name}, nil
}

// Open implements [vfs.FS].
func (g *guard) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	if g.err() != nil {
		if f, err := g.tables.Open(g.PathBase(name)); err == nil {
			return f, nil
		}
	}
	f, err := g.FS.Open(name, o...)
	if err == nil && name == g.shown.path {
		return &shortFile{File: f, left: g.shown.size}, nil
	}
	return f, err
}

// Stat implements [vfs.FS].
func (g *guard) Stat(name string) (vfs.FileInfo, error) {
	if g.err() != nil {
		if i, err := g.tables.Stat(g.PathBase(name)); err == nil {
			return i, nil
		}
	}
	return g.FS.Stat(name)
}

// Rename implements [vfs.FS].
func (g *guard) Rename(from, to string) error {
	return g.change(to, func() error { return g.FS.Rename(from, to) })
}

// MkdirAll implements [vfs.FS].
func (g *guard) MkdirAll(dir string, perm os.FileMode) error {
	return g.change(dir, func() error { return g.FS.MkdirAll(dir, perm) })
}

// Remove implements [vfs.FS]. Pebble bears with files that stay.
func (g *guard) Remove(name string) error {
	if g.err() != nil {
		return nil
	}
	if isManifest(g.PathBase(name)) {
		_ = g.FS.Remove(name + copied)
	}
	return g.FS.Remove(name)
}

// RemoveAll implements [vfs.FS].
func (g *guard) RemoveAll(name string) error {
	if g.err() != nil {
		return nil
	}
	return g.FS.RemoveAll(name)
}

// Link implements [vfs.FS]. Only a backup links, and it copes with an error.
func (g *guard) Link(from, to string) error {
	if err := g.err(); err != nil {
		return err
	}
	return g.FS.Link(from, to)
}

// Lock implements [vfs.FS]: the store holds the lock, for one database after the
// other.
func (g *guard) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// Unwrap implements [vfs.FS].
func (g *guard) Unwrap() vfs.FS { return g.FS }

func (g *guard) change(name string, f func() error) error {
	if g.err() != nil {
		return g.wrote(name, nil)
	}
	return g.wrote(name, f())
}

// guardedFile is a file that was opened for writing, or a directory.
type guardedFile struct {
	vfs.File
	guard *guard
	name  string
}

// Write implements [vfs.File].
func (f *guardedFile) Write(p []byte) (int, error) {
	var n int
	err := f.change(func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	if err != nil {
		return n, err
	}
	if isLog(f.name) {
		f.guard.mu.Lock()
		if f.guard.failure == nil && f.guard.log.path == f.name {
			f.guard.log.size += int64(n)
		}
		f.guard.mu.Unlock()
	}
	return len(p), nil
}

// WriteAt implements [vfs.File].
func (f *guardedFile) WriteAt(p []byte, at int64) (int, error) {
	err := f.change(func() error {
		_, err := f.File.WriteAt(p, at)
		return err
	})
	return len(p), err
}

// Sync implements [vfs.File].
func (f *guardedFile) Sync() error { return f.change(f.File.Sync) }

// SyncData implements [vfs.File].
func (f *guardedFile) SyncData() error { return f.change(f.File.SyncData) }

// SyncTo implements [vfs.File].
func (f *guardedFile) SyncTo(length int64) (full bool, err error) {
	err = f.change(func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Preallocate implements [vfs.File]. It saves time and is not needed.
func (f *guardedFile) Preallocate(at, length int64) error {
	if f.guard.err() != nil {
		return nil
	}
	return f.File.Preallocate(at, length)
}

func (f *guardedFile) change(do func() error) error {
	if f.guard.err() != nil {
		return f.guard.wrote(f.name, nil)
	}
	return f.guard.wrote(f.name, do())
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
func dropLogsAfter(fs vfs.FS, dir string, m Mark) error {
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
