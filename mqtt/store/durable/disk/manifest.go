package disk

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"

	"github.com/hpmq/hpmq/internal/logfield"
)

// Without the manifest it is not known which of the database's tables count, and
// Pebble removes tables that do not count. So there is a copy of the manifest, which
// is written and synced first: no record that the database ever relied on is missing
// there. A copy that could not be written is removed.

// copied ends the name of a manifest's copy. Pebble takes no such file for its own.
const copied = ".copy"

// freshManifest is where a manifest or a copy is written before it gets its name.
const freshManifest = "manifest.new"

// errNoManifest is damage: a database that has files has a manifest.
var errNoManifest = errors.New("the marker of the manifest is missing")

func isManifest(name string) bool {
	return strings.HasPrefix(name, "MANIFEST-") && !strings.HasSuffix(name, copied)
}

// isMarker reports whether the name of a file says which manifest counts, or the
// like.
func isMarker(name string) bool { return strings.HasPrefix(name, "marker.") }

// copiedFile is a manifest that is written, with its copy.
type copiedFile struct {
	vfs.File
	fs   vfs.FS
	name string   // of the copy
	copy vfs.File // nil once it could not be written
}

func withCopy(fs vfs.FS, name string, f vfs.File, c vfs.DiskWriteCategory) vfs.File {
	d := &copiedFile{File: f, fs: fs, name: name + copied}
	var err error
	if d.copy, err = fs.Create(d.name, c); err != nil {
		d.copy = nil
		_ = fs.Remove(d.name)
	}
	return d
}

// first does a write or sync of the manifest to its copy, before the manifest.
func (f *copiedFile) first(do func(vfs.File) error) {
	if f.copy == nil || do(f.copy) == nil {
		return
	}
	_ = f.copy.Close()
	f.copy = nil
	_ = f.fs.Remove(f.name)
}

// Write implements [vfs.File]. A file may alter p while it writes.
func (f *copiedFile) Write(p []byte) (int, error) {
	f.first(func(c vfs.File) error {
		_, err := c.Write(bytes.Clone(p))
		return err
	})
	return f.File.Write(p)
}

// WriteAt implements [vfs.File].
func (f *copiedFile) WriteAt(p []byte, at int64) (int, error) {
	f.first(func(c vfs.File) error {
		_, err := c.WriteAt(bytes.Clone(p), at)
		return err
	})
	return f.File.WriteAt(p, at)
}

// Sync implements [vfs.File].
func (f *copiedFile) Sync() error {
	f.first(vfs.File.Sync)
	return f.File.Sync()
}

// SyncData implements [vfs.File].
func (f *copiedFile) SyncData() error {
	f.first(vfs.File.SyncData)
	return f.File.SyncData()
}

// SyncTo implements [vfs.File].
func (f *copiedFile) SyncTo(length int64) (full bool, err error) {
	f.first(func(c vfs.File) error {
		_, err := c.SyncTo(length)
		return err
	})
	return f.File.SyncTo(length)
}

// Close implements [vfs.File].
func (f *copiedFile) Close() error {
	if f.copy != nil {
		_ = f.copy.Close()
	}
	return f.File.Close()
}

// findManifest returns the name of the manifest, or "" if there is no database yet.
func (d *Dir) findManifest() (string, error) {
	name, err := atomicfs.ReadMarker(d.fs, d.path, "manifest")
	if err != nil {
		return "", d.Failed(err)
	}
	if name != "" {
		return name, nil
	}
	names, err := d.fs.List(d.path)
	if err != nil {
		return "", d.Failed(err)
	}
	if slices.ContainsFunc(names, func(name string) bool { return isTable(name) || isLog(name) }) {
		return "", errNoManifest
	}
	return "", nil
}

// recheckManifest returns a [damagedFile] if the manifest of a database that failed
// is damaged. It may end early.
func (d *Dir) recheckManifest() error {
	name, err := d.findManifest()
	if err != nil {
		return err
	}
	path, r, err := d.readManifest(name)
	if end := r.end(); err == nil && r.goesOnAfter(end) {
		return &damagedFile{path, end}
	}
	return err
}

// readManifest returns the records of the manifest. If its copy has more, and begins
// with all sound records of the manifest, the copy takes its place before.
func (d *Dir) readManifest(name string) (path string, r records, err error) {
	fs := d.fs
	path = fs.PathJoin(d.path, name)
	r.content, err = readAll(fs, path)
	sound := r.content[:r.end()]
	if whole := readCopy(fs, path); len(whole) >= len(r.content) && len(whole) > len(sound) && bytes.HasPrefix(whole, sound) {
		if err == nil && !bytes.HasPrefix(whole, r.content) {
			err = &damagedFile{path, len(sound)}
		}
		return path, records{content: whole}, d.useCopy(path, whole, err)
	}
	if errors.Is(err, os.ErrNotExist) {
		return path, records{}, nil // Pebble says so better
	}
	if err != nil {
		err = d.Failed(err)
	}
	return path, r, err
}

// readCopy returns the records of a manifest's copy, or nothing if it is damaged.
func readCopy(fs vfs.FS, path string) []byte {
	content, err := readAll(fs, path+copied)
	r := records{content: content}
	end := r.end()
	if err != nil || r.goesOnAfter(end) {
		return nil
	}
	return content[:end]
}

// useCopy makes whole the content of the manifest. The old manifest is set aside
// unless it is the beginning of whole.
func (d *Dir) useCopy(path string, whole []byte, damage error) error {
	fs := d.fs
	if damage == nil || errors.Is(damage, os.ErrNotExist) {
		if err := replaceFile(fs, path, whole); err != nil {
			return d.Failed(err)
		}
		d.log.WithField(logfield.File, path).
			Warn("the store's manifest ends early, as after a kill, or is missing: its copy has the rest and takes its place")
		return nil
	}
	aside := d.asideName()
	err := fs.MkdirAll(aside, 0o700)
	if err == nil {
		err = fs.Rename(path, fs.PathJoin(aside, fs.PathBase(path)))
	}
	if err == nil {
		err = replaceFile(fs, path, whole)
	}
	if err != nil {
		return d.Failed(err)
	}
	d.log.WithField(logfield.File, aside).WithField(logfield.Reason, damage.Error()).
		Error("the store's manifest was damaged: its copy takes its place, nothing is lost, the damaged one is set aside")
	return nil
}

// renewCopy makes the copy of the manifest in dir equal to the manifest, which is in
// order, and removes copies of other manifests.
func renewCopy(fs vfs.FS, dir string) {
	manifest, err := atomicfs.ReadMarker(fs, dir, "manifest")
	if err != nil || manifest == "" {
		return
	}
	names, _ := fs.List(dir)
	for _, name := range names {
		if strings.HasSuffix(name, copied) && name != manifest+copied {
			_ = fs.Remove(fs.PathJoin(dir, name))
		}
	}
	path := fs.PathJoin(dir, manifest)
	content, err := readAll(fs, path)
	if err != nil {
		return // Pebble says so better
	}
	if old, err := readAll(fs, path+copied); err == nil && bytes.Equal(old, content) {
		return
	}
	if replaceFile(fs, path+copied, content) != nil {
		_ = fs.Remove(path + copied)
	}
}

// replaceFile puts a file with this content at the path, all at once.
func replaceFile(fs vfs.FS, path string, content []byte) error {
	dir := fs.PathDir(path)
	fresh := fs.PathJoin(dir, freshManifest)
	f, err := fs.Create(fresh, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(bytes.Clone(content))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = fs.Rename(fresh, path)
	}
	if err != nil {
		_ = fs.Remove(fresh)
		return err
	}
	return syncDir(fs, dir)
}
