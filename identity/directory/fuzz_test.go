package directory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func FuzzRecord(f *testing.F) {
	w := newWriter(f)
	for _, r := range mustPut(f, w, everyKind()...) {
		e, err := w.entry(r.Seq)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(e.raw)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, rest, err := decodeEntry(b)
		if err != nil {
			return
		}
		again, err := encoding.Marshal(&e.Record)
		if err != nil || !bytes.Equal(append(again, rest...), b) {
			t.Fatalf("%x decodes and encodes to %x, %v", b, again, err)
		}
		if p, err := e.Decode(); err == nil && p.slot().Key != e.Key {
			t.Fatalf("payload of %v in %q", p.slot(), e.Key)
		}
	})
}

// memoryFile is a log's file without a disk.
type memoryFile struct{ b []byte }

func (m *memoryFile) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(b, off)
}

func (m *memoryFile) WriteAt(b []byte, off int64) (int, error) {
	m.b = append(m.b[:off], b...)
	return len(b), nil
}

func (m *memoryFile) Truncate(size int64) error {
	m.b = m.b[:size]
	return nil
}

func (m *memoryFile) Sync() error  { return nil }
func (m *memoryFile) Close() error { return nil }

func FuzzFollow(f *testing.F) {
	w := newWriter(f)
	mustPut(f, w, everyKind()...)
	body, _, err := w.batch(1, 6)
	if err != nil {
		f.Fatal(err)
	}
	if err := w.signHead(); err != nil {
		f.Fatal(err)
	}
	head, err := encoding.Marshal(w.Head())
	if err != nil {
		f.Fatal(err)
	}
	var stream bytes.Buffer
	for _, m := range []struct {
		t    frameType
		body []byte
	}{{frameRecords, body}, {frameHead, head}} {
		if err := writeMessage(&stream, m.t, m.body); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(stream.Bytes())
	f.Add([]byte{byte(frameRefused), 1, 0, 0, 0, 0xa0})
	f.Add([]byte{byte(frameRecords), 0xff, 0xff, 0xff, 0xff})
	path := filepath.Join(f.TempDir(), "log")
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &Directory{
			path: path, now: time.Now, index: newIndex(publicKey(rootKey)), changed: make(chan struct{}),
			file: &logFile{file: &memoryFile{[]byte(logMagic)}, size: int64(len(logMagic))},
		}
		err := r.follow(nopStream{struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard}})
		if err == nil {
			t.Fatal("a stream that ended gave no error")
		}
		for seq := uint64(1); seq <= r.Tip().Count; seq++ {
			if got, err := r.Record(seq); err != nil || got.verify(publicKey(rootKey)) != nil {
				t.Fatalf("stored record %d: %v", seq, err)
			}
		}
	})
}

func FuzzLog(f *testing.F) {
	d := newWriter(f)
	mustPut(f, d, everyKind()...)
	mustPut(f, d, somePolicy(2))
	whole, err := os.ReadFile(d.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-9])
	f.Add([]byte(logMagic))
	huge := binary.LittleEndian.AppendUint32([]byte(logMagic), math.MaxUint32)
	f.Add(append(huge, make([]byte, 20)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		records := 0
		end, err := scanLog(bytes.NewReader(b), int64(len(b)), func(e entry, s span) error {
			records++
			if !bytes.Equal(b[s.off:s.off+int64(s.len)], e.raw) {
				t.Fatalf("record %d is not at %v", records, s)
			}
			return nil
		})
		if end > int64(len(b)) {
			t.Fatalf("end %d of %d", end, len(b))
		}
		if err != nil && !errors.Is(err, errTorn) {
			return
		}
		// What is left after the tail was cut reads the same.
		again := 0
		got, err := scanLog(bytes.NewReader(b[:end]), end, func(entry, span) error { again++; return nil })
		if err != nil || got != end || again != records {
			t.Fatalf("after the cut: %d of %d records, end %d of %d, %v", again, records, got, end, err)
		}
	})
}
