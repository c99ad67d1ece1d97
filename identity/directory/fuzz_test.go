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

// fuzzReplica is a replica without a disk but for its head.
func fuzzReplica(path string) *Directory {
	d := newDirectory(path, publicKey(rootKey), Options{})
	d.file = &logFile{file: &memoryFile{[]byte(logMagic)}, size: int64(len(logMagic))}
	return d
}

// messages writes frames as a stream has them.
func messages(f *testing.F, all ...message) []byte {
	var stream bytes.Buffer
	for _, m := range all {
		if err := writeMessage(&stream, m.t, m.body); err != nil {
			f.Fatal(err)
		}
	}
	return stream.Bytes()
}

type message struct {
	t    frameType
	body []byte
}

func FuzzFollow(f *testing.F) {
	w := newWriter(f)
	mustPut(f, w, everyKind()...)
	body, _, err := w.batch(1, 6)
	if err != nil {
		f.Fatal(err)
	}
	mustSignHead(f, w)
	head, err := encoding.Marshal(w.Head())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(messages(f, message{frameRecords, body}, message{frameHead, head}))
	f.Add(messages(f, message{frameHead, head}, message{200, []byte("from a later version")}, message{frameAnswer, body}))
	f.Add([]byte{byte(frameRefused), 1, 0, 0, 0, 0xa0})
	f.Add([]byte{byte(frameRecords), 0xff, 0xff, 0xff, 0xff})
	path := filepath.Join(f.TempDir(), "log")
	f.Fuzz(func(t *testing.T, b []byte) {
		r := fuzzReplica(path)
		if err := r.listen(r.sources.add(node("w")), bytes.NewReader(b)); err == nil {
			t.Fatal("a stream that ended gave no error")
		}
		for seq := uint64(1); seq <= r.Tip().Count; seq++ {
			if got, err := r.Record(seq); err != nil || got.verify(publicKey(rootKey)) != nil {
				t.Fatalf("stored record %d: %v", seq, err)
			}
		}
	})
}

func FuzzServe(f *testing.F) {
	w := newWriter(f)
	mustPut(f, w, everyKind()...)
	report, err := encoding.Marshal(Report{Point: w.Tip(), Policy: 3})
	if err != nil {
		f.Fatal(err)
	}
	at, err := encoding.Marshal(Point{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(messages(f, message{frameHello, report}, message{frameFetch, at}, message{frameReport, report}))
	f.Add(messages(f, message{frameHello, report}, message{frameHello, report}))
	f.Add([]byte{byte(frameFetch), 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		rw := nopStream{struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard}}
		_ = w.Serve(t.Context(), node("r"), rw)
		for _, r := range w.Replicas() {
			if here, ok, err := w.pointAt(r.Point.Count); err != nil || !ok || here != r.Point {
				t.Fatalf("believed a report of %v", r.Point)
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
