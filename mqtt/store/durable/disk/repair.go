package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hpmq/hpmq/internal/logfield"
)

// repaired is added to the name of a directory that will take the place of a
// damaged one.
const repaired = ".repaired"

// copySize is after how many bytes a batch of a repair is committed.
const copySize = 1 << 20

// finishRepair finishes a repair that was cut short between its two renames.
func (d *Dir) finishRepair() error {
	fs := d.fs
	if _, err := fs.Stat(d.path); !errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := fs.Stat(d.path + repaired); err != nil {
		return nil
	}
	if err := fs.Rename(d.path+repaired, d.path); err != nil {
		return fmt.Errorf("repair of damaged store: %w", d.Failed(err))
	}
	return nil
}

// asideName returns where damaged files go.
func (d *Dir) asideName() string {
	return d.path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000")
}

// repair copies all keys that can be read to a new directory and puts that in the
// place of the damaged one, which stays under another name.
func (d *Dir) repair(cause error) error {
	fs := d.fs
	aside := d.asideName()
	fresh := d.path + repaired
	if err := fs.RemoveAll(fresh); err != nil { // of a repair that was cut short
		return d.Failed(err)
	}
	kept, gaps, err := d.copyReadable(fs, fresh)
	if err != nil {
		return fmt.Errorf("repair of damaged store: %w (the damage: %w)", d.Failed(err), cause)
	}
	for _, move := range [][2]string{{d.path, aside}, {fresh, d.path}} {
		if err := fs.Rename(move[0], move[1]); err != nil {
			return fmt.Errorf("repair of damaged store: %w", d.Failed(err))
		}
	}
	if err := syncDir(fs, fs.PathDir(d.path)); err != nil {
		return d.Failed(err)
	}
	d.log.WithField(logfield.File, aside).WithField(logfield.Reason, cause.Error()).
		WithField("kept", kept).WithField("gaps", gaps).
		Error("the store was damaged: what could be read is kept, the damaged files are set aside")
	return nil
}

// copyReadable copies all that can be read to a new database, and tells how many
// keys that were and in how many places something is missing.
func (d *Dir) copyReadable(fs vfs.FS, fresh string) (kept, gaps int, err error) {
	from, err := d.openDatabase(d.path, Mark{})
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = from.Release() }()
	cuts, err := tableBounds(from)
	if err != nil {
		return 0, 0, err
	}
	if err := fs.MkdirAll(fresh, 0o700); err != nil {
		return 0, 0, err
	}
	to, err := d.openDatabase(fresh, Mark{})
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = to.Release() }()
	for i := range len(cuts) + 1 {
		o := &pebble.IterOptions{LowerBound: []byte{0}, UpperBound: []byte{0xff}}
		if i > 0 {
			o.LowerBound = cuts[i-1]
		}
		if i < len(cuts) {
			o.UpperBound = cuts[i]
		}
		for step, inGap := uint64(1), false; o.LowerBound != nil; {
			n, last, err := copyRange(from, to, o)
			if err != nil {
				return kept, gaps, err
			}
			if kept += n; last == nil {
				break
			}
			if n > 0 || !inGap { // else it is the same gap, and wider than step
				step, inGap, gaps = 1, true, gaps+1
			}
			o.LowerBound = skip(last, step, o.UpperBound)
			step *= 2
		}
	}
	last := to.NewBatch()
	if err := d.copied(to, last); err != nil {
		return kept, gaps, err
	}
	return kept, gaps, to.Commit(last, pebble.Sync)
}

// skip returns the key so many behind key, taken as a number, or nil if that is
// at end or behind it. Most keys end in a sequence number, so that a few doubled
// steps lead behind a block of a table that cannot be read.
func skip(key []byte, step uint64, end []byte) []byte {
	next := append(make([]byte, 0, len(key)+8), key...)
	if len(next) < 8 {
		next = append(next, make([]byte, 8)...)
	}
	tail := next[len(next)-8:]
	n := binary.BigEndian.Uint64(tail)
	if n+step < n {
		return nil
	}
	binary.BigEndian.PutUint64(tail, n+step)
	if bytes.Compare(next, end) >= 0 {
		return nil
	}
	return next
}

// tableBounds returns the keys at which tables begin or end: behind the next of
// them reading goes on when a table cannot be read.
func tableBounds(db *Database) ([][]byte, error) {
	levels, err := db.pebble.SSTables()
	if err != nil {
		return nil, err
	}
	var cuts [][]byte
	for _, level := range levels {
		for _, t := range level {
			end := append(slices.Clone(t.Largest.UserKey), 0)
			cuts = append(cuts, slices.Clone(t.Smallest.UserKey), end)
		}
	}
	slices.SortFunc(cuts, bytes.Compare)
	return slices.CompactFunc(cuts, bytes.Equal), nil
}

// copyRange copies keys until one cannot be read, and then returns the last
// before it. The error is of the copy.
func copyRange(from, to *Database, o *pebble.IterOptions) (n int, last []byte, err error) {
	b := to.NewBatch()
	it, failure := from.pebble.NewIter(o)
	if failure != nil {
		return 0, o.LowerBound, nil
	}
	last = slices.Clone(o.LowerBound)
	for ok := it.First(); ok; ok = it.Next() {
		var value []byte
		if value, failure = it.ValueAndErr(); failure != nil {
			break
		}
		last = append(last[:0], it.Key()...)
		err := b.Set(last, value, nil)
		n++
		if err == nil && b.Len() >= copySize {
			err = to.Commit(b, pebble.NoSync)
			b = to.NewBatch()
		}
		if err != nil {
			return n, nil, errors.Join(err, it.Close())
		}
	}
	if it.Error() == nil && failure == nil {
		last = nil
	}
	_ = it.Close() // it repeats its error
	return n, last, to.Commit(b, pebble.NoSync)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		_ = d.Close()
		return err
	}
	return d.Close()
}
