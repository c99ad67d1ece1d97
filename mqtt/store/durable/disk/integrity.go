package disk

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hpmq/hpmq/internal/logfield"
)

// format is in which format Pebble writes the files. It is pinned because this file
// reads the chunks of manifests and logs, and fields of the manifest, by itself: a
// format that has other chunks or fields would pass for damage, or damage for the
// end. Before it is raised, compare header, chunk and firstLog with Pebble's
// record and manifest packages at the new format, and raise TestFormat with it.
const format = pebble.FormatTableFormatV6

// Pebble takes the first damaged record in its manifest, and in the last 32 KiB of
// its log, for the end of the file: a write that was cut short looks like that. The
// records behind it tell the two apart. The manifest is synced with every record,
// so a sound record behind a damaged one proves the damage; and a record of the log
// says how far the log was synced.

// damagedFile is the error of a file that lost something which was synced.
type damagedFile struct {
	path string
	at   int
}

func (e *damagedFile) Error() string { return fmt.Sprintf("%s is damaged at byte %d", e.path, e.at) }

// checkFiles puts a copy in the place of a damaged manifest, and returns a
// [damagedFile] if there is none. A damaged log is set aside with all later logs,
// and the place is returned up to which it can be read.
func (d *Dir) checkFiles() (readable Mark, err error) {
	manifest, err := d.findManifest()
	if err != nil {
		return Mark{}, err
	}
	if manifest == "" {
		return Mark{}, d.create()
	}
	path, r, err := d.readManifest(manifest)
	if err == nil {
		err = d.judge(path, r, true)
	}
	if err != nil {
		return Mark{}, err
	}
	logs, err := listLogs(d.fs, d.path)
	if err != nil {
		return Mark{}, d.Failed(err)
	}
	first := r.firstLog()
	logs = slices.DeleteFunc(logs, func(name string) bool { return logNumber(name) < first })
	for i, name := range logs {
		err := d.checkLog(name, i == len(logs)-1)
		if damage, ok := errors.AsType[*damagedFile](err); ok {
			return Mark{damage.path, int64(damage.at)}, d.setLogsAside(logs[i:], damage)
		} else if err != nil {
			return Mark{}, err
		}
	}
	return Mark{}, nil
}

// create makes a new database and closes it: the first log of one does not say how
// far it was synced.
func (d *Dir) create() error {
	db, err := d.openDatabase(d.path, Mark{})
	if err != nil {
		return err
	}
	if err := db.Release(); err != nil {
		return d.Failed(err)
	}
	return nil
}

// listLogs returns the names of the logs, oldest first.
func listLogs(fs vfs.FS, dir string) ([]string, error) {
	names, err := fs.List(dir)
	names = slices.DeleteFunc(names, func(name string) bool { return !isLog(name) })
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(logNumber(a), logNumber(b)) })
	return names, err
}

// setLogsAside keeps copies of all logs, of which the first is damaged. The later
// logs are removed: their records came after a record that is missing.
func (d *Dir) setLogsAside(logs []string, damage error) error {
	fs := d.fs
	aside := d.asideName()
	err := fs.MkdirAll(aside, 0o700)
	for i, name := range logs {
		path := fs.PathJoin(d.path, name)
		if err == nil {
			err = vfs.Copy(fs, path, fs.PathJoin(aside, name))
		}
		if err == nil && i > 0 {
			err = fs.Remove(path)
		}
	}
	if err != nil {
		return fmt.Errorf("set damaged log aside: %w (the damage: %w)", d.Failed(err), damage)
	}
	d.log.WithField(logfield.File, aside).WithField(logfield.Reason, damage.Error()).
		Error("the store's log was damaged: what it holds up to there is kept, what came after is lost, the damaged files are set aside")
	return nil
}

// checkLog returns a [damagedFile] if the log is damaged.
func (d *Dir) checkLog(name string, last bool) error {
	path := d.fs.PathJoin(d.path, name)
	content, err := readAll(d.fs, path)
	if err != nil {
		return d.Failed(err)
	}
	return d.judge(path, records{content, uint32(logNumber(name))}, last)
}

// judge returns a [damagedFile] if a file lost a record. Only the last file may end
// in a record that was cut short.
func (d *Dir) judge(path string, r records, last bool) error {
	number, end := r.number, r.end()
	switch cut := r.cutShort(end); {
	case r.goesOnAfter(end), cut && !last, cut && number == 0 && r.whole(end):
		return &damagedFile{path, end}
	case cut && number == 0:
		aside := d.asideName()
		if err := d.linkAside(aside); err != nil {
			return err
		}
		d.log.WithField(logfield.File, aside).WithField("byte", end).
			Error("the store's manifest ends in a record that was cut short or is damaged: what was written last is perhaps missing, all files are set aside as they were")
	case cut: // a process that is killed leaves that too
		d.log.WithField(logfield.File, path).WithField("byte", end).
			Warn("the store's log ends in a record that was cut short, as by a kill, or is damaged: what was written last is perhaps missing")
	}
	return nil
}

// linkAside gives all files a second name, so that a start which perhaps takes
// tables for forgotten ones removes nothing.
func (d *Dir) linkAside(aside string) error {
	fs := d.fs
	names, err := fs.List(d.path)
	if err == nil {
		err = fs.MkdirAll(aside, 0o700)
	}
	for _, name := range names {
		if err == nil {
			err = vfs.LinkOrCopy(fs, fs.PathJoin(d.path, name), fs.PathJoin(aside, name))
		}
	}
	if err != nil {
		return d.Failed(err)
	}
	return nil
}

func readAll(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// records is the content of a manifest or log: blocks of chunks. A chunk is a
// checksum, a length and a kind, in a log also its number and up to where it was
// synced before, and the data.
type records struct {
	content []byte
	number  uint32 // of the log; 0 is a manifest
}

const (
	recordBlock = 32 << 10

	plainHeader  = 7
	logHeader    = plainHeader + 4
	syncedHeader = logHeader + 8
)

// header returns how long the header of a chunk kind is, or 0.
func header(kind byte) int {
	switch {
	case 1 <= kind && kind <= 4:
		return plainHeader
	case 5 <= kind && kind <= 8:
		return logHeader
	case 9 <= kind && kind <= 12:
		return syncedHeader
	}
	return 0
}

// chunk returns where the chunk at a place ends and how far it says that the log
// was synced. It is not ok unless it is sound and of this file.
func (r records) chunk(at int) (end int, synced uint64, ok bool) {
	block := r.content[at:min(len(r.content), (at/recordBlock+1)*recordBlock)]
	if len(block) < plainHeader {
		return 0, 0, false
	}
	size := header(block[6])
	length := size + int(binary.LittleEndian.Uint16(block[4:]))
	if size == 0 || length > len(block) || (r.number == 0) != (size == plainHeader) {
		return 0, 0, false
	}
	if size >= logHeader && binary.LittleEndian.Uint32(block[plainHeader:]) != r.number {
		return 0, 0, false
	}
	sum := crc32.Checksum(block[6:length], castagnoli)
	if binary.LittleEndian.Uint32(block) != (sum>>15|sum<<17)+0xa282ead8 {
		return 0, 0, false
	}
	if size == syncedHeader {
		synced = binary.LittleEndian.Uint64(block[logHeader:])
	}
	return at + length, synced, true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// end returns where the first chunk that is not sound begins.
func (r records) end() int {
	for at := 0; ; {
		if end, _, ok := r.chunk(at); ok {
			at = end
			continue
		}
		rest := r.content[at:min(len(r.content), (at/recordBlock+1)*recordBlock)]
		next := at + len(rest)
		if len(rest) >= syncedHeader || next == len(r.content) || !zero(rest) {
			return at
		}
		at = next // too little for a header
	}
}

// goesOnAfter reports whether a chunk behind a place proves that the chunk at the
// place was whole once.
func (r records) goesOnAfter(place int) bool {
	for at := place + 1; at < len(r.content); at++ {
		if _, synced, ok := r.chunk(at); ok && (r.number == 0 || synced > uint64(place)) {
			return true
		}
	}
	return false
}

// cutShort reports whether there is an unsound chunk of this file at a place, and
// not the rest of an earlier file that this one was written over.
func (r records) cutShort(place int) bool {
	rest := r.content[place:]
	if r.number == 0 {
		return len(rest) > 0
	}
	return len(rest) >= logHeader && header(rest[6]) >= logHeader && binary.LittleEndian.Uint32(rest[plainHeader:]) == r.number
}

// whole reports whether all of the chunk at a place was written: it is not longer
// than the file, and does not end in zeros, as where a disk did not get to.
func (r records) whole(place int) bool {
	rest := r.content[place:]
	return len(rest) >= plainHeader && len(rest) >= plainHeader+int(binary.LittleEndian.Uint16(rest[4:])) && !zero(rest[max(0, len(rest)-8):])
}

// The fields that a record of the manifest begins with, if it has them.
const (
	fieldComparer = 1 // length, name
	fieldFirstLog = 2 // number
)

// firstLog returns the number of the first log that is not in tables, as the
// manifest has it. Earlier logs wait to be written over.
func (r records) firstLog() (number uint64) {
	all := record.NewReader(bytes.NewReader(r.content), 0)
	fields := bufio.NewReader(nil)
	for {
		next, err := all.Next()
		if err != nil {
			return number
		}
		fields.Reset(next)
		field, _ := binary.ReadUvarint(fields) // 0 is none
		if field == fieldComparer {
			length, _ := binary.ReadUvarint(fields)
			_, _ = fields.Discard(int(length))
			field, _ = binary.ReadUvarint(fields)
		}
		if field != fieldFirstLog {
			continue
		}
		if n, err := binary.ReadUvarint(fields); err == nil {
			number = n
		}
	}
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
