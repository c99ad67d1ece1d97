package directory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/hpmq/hpmq/internal/atomicfile"
)

// On disk a log is logMagic and then frames. A frame is the data of one sync: a
// header of three little-endian 32-bit words (body length, CRC-32C of the body,
// CRC-32C of the first two words) and a body of one or more records, back to back.
// Only the last frame can be torn by a crash.
const (
	logMagic    = "hpmqdir1"
	frameHeader = 12
	maxFrame    = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn marks a last frame that a crash left incomplete. It was never acknowledged.
var errTorn = errors.New("torn frame")

// storage is the part of a file that a log needs.
type storage interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
}

// logFile is the append-only file. The owner serializes append; read may run beside it.
type logFile struct {
	file   storage
	size   int64 // end of the last durable frame
	broken error // set when the file's state is unknown: nothing is written any more
}

// span is where one record lies in the file.
type span struct {
	off int64
	len uint32
}

// openLog opens or makes the log at path and gives every record to visit in order.
// It cuts off a torn tail and returns the tail's size.
func openLog(path string, visit func(entry, span) error) (*logFile, int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	l, torn, err := loadLog(f, path, visit)
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return l, torn, nil
}

func loadLog(f *os.File, path string, visit func(entry, span) error) (*logFile, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	l := &logFile{file: f}
	if info.Size() < int64(len(logMagic)) { // new, or a crash while it was made
		if err := l.begin(path); err != nil {
			return nil, 0, fmt.Errorf("begin %s: %w", path, err)
		}
		return l, 0, nil
	}
	end, err := scanLog(f, info.Size(), visit)
	if err != nil && !errors.Is(err, errTorn) {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	torn := info.Size() - end
	if torn > 0 {
		if err := f.Truncate(end); err != nil {
			return nil, 0, err
		}
		if err := f.Sync(); err != nil {
			return nil, 0, err
		}
	}
	l.size = end
	return l, torn, nil
}

func (l *logFile) begin(path string) error {
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	if _, err := l.file.WriteAt([]byte(logMagic), 0); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		return err
	}
	l.size = int64(len(logMagic))
	return atomicfile.SyncDir(filepath.Dir(path))
}

// scanLog reads size bytes of r and returns the end of the last whole frame. A
// frame that is incomplete or damaged is an error. When it is the last frame the
// error wraps errTorn; else it tells an operator how to mend the log.
func scanLog(r io.ReaderAt, size int64, visit func(entry, span) error) (int64, error) {
	magic := make([]byte, len(logMagic))
	if _, err := r.ReadAt(magic, 0); err != nil {
		return 0, err
	}
	if string(magic) != logMagic {
		return 0, errors.New("not a directory log")
	}
	off := int64(len(logMagic))
	for off < size {
		body, err := readFrame(r, off, size)
		if err != nil {
			return off, err
		}
		off += frameHeader
		for len(body) > 0 {
			e, rest, err := decodeEntry(body)
			if err != nil {
				return off, corrupt(off, err)
			}
			if err := visit(e, span{off, uint32(len(e.raw))}); err != nil {
				return off, corrupt(off, err)
			}
			off, body = off+int64(len(e.raw)), rest
		}
	}
	return off, nil
}

func readFrame(r io.ReaderAt, off, size int64) ([]byte, error) {
	left := size - off
	if left < frameHeader {
		return nil, errTorn
	}
	var head [frameHeader]byte
	if _, err := r.ReadAt(head[:], off); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(head[0:]))
	if binary.LittleEndian.Uint32(head[8:]) != crc32.Checksum(head[:8], castagnoli) || n == 0 || n > maxFrame {
		if left <= frameHeader+maxFrame && allZero(r, off, left) {
			return nil, errTorn // the file grew, its content never arrived
		}
		return nil, corrupt(off, errors.New("frame header does not match its checksum"))
	}
	if n > left-frameHeader {
		return nil, errTorn
	}
	body := make([]byte, n)
	if _, err := r.ReadAt(body, off+frameHeader); err != nil {
		return nil, err
	}
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		if n == left-frameHeader {
			return nil, errTorn
		}
		return nil, corrupt(off, errors.New("frame does not match its checksum"))
	}
	return body, nil
}

func allZero(r io.ReaderAt, off, n int64) bool {
	b := make([]byte, n)
	_, err := r.ReadAt(b, off)
	return err == nil && len(bytes.Trim(b, "\x00")) == 0
}

func corrupt(off int64, err error) error {
	return fmt.Errorf("corrupt at byte %d: %w; on a replica remove the file and it is fetched again, on the writer put the copy of a replica in its place", off, err)
}

// append makes body durable as one frame and returns the offset of its first
// byte. On an error the log is as it was before, or broken for good when that
// is not certain.
func (l *logFile) append(body []byte) (int64, error) {
	if l.broken != nil {
		return 0, fmt.Errorf("directory log takes no more records until restart: %w", l.broken)
	}
	if len(body) > maxFrame {
		return 0, fmt.Errorf("frame of %d bytes, at most %d", len(body), maxFrame)
	}
	frame := make([]byte, frameHeader, frameHeader+len(body))
	binary.LittleEndian.PutUint32(frame[0:], uint32(len(body)))
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(body, castagnoli))
	binary.LittleEndian.PutUint32(frame[8:], crc32.Checksum(frame[:8], castagnoli))
	frame = append(frame, body...)
	if _, err := l.file.WriteAt(frame, l.size); err != nil {
		if terr := l.file.Truncate(l.size); terr != nil {
			l.broken = errors.Join(err, terr)
		}
		return 0, fmt.Errorf("write directory log: %w", err)
	}
	// After a failed sync the content of the disk is unknown, and a second try
	// may report success for pages that were dropped.
	if err := l.file.Sync(); err != nil {
		l.broken = errors.Join(err, l.file.Truncate(l.size))
		return 0, fmt.Errorf("sync directory log: %w", err)
	}
	off := l.size + frameHeader
	l.size += int64(len(frame))
	return off, nil
}

// read returns the raw record at s.
func (l *logFile) read(s span) ([]byte, error) {
	b := make([]byte, s.len)
	_, err := l.file.ReadAt(b, s.off)
	return b, err
}
