package wasm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Section ids of the WebAssembly binary format (core specification §5.5.2).
const (
	secCustom   = 0
	secType     = 1
	secImport   = 2
	secFunction = 3
	secTable    = 4
	secGlobal   = 6
	secExport   = 7
	secElement  = 9
	secCode     = 10
	secData     = 11
)

// sectionOrder is the place of a non-custom section in a module; data count
// (12) and tag (13) stand out of the order of their ids.
var sectionOrder = map[byte]int{1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 13: 6, 6: 7, 7: 8, 8: 9, 9: 10, 12: 11, 10: 12, 11: 13}

type section struct {
	id   byte
	body []byte
}

var (
	magicCore      = []byte{0, 'a', 's', 'm', 1, 0, 0, 0}
	magicComponent = []byte{0, 'a', 's', 'm', 0x0d, 0, 1, 0}
	errTruncated   = errors.New("module ends early")
)

// splitSections cuts a module into its sections without looking inside them.
func splitSections(code []byte) ([]section, error) {
	switch {
	case bytes.HasPrefix(code, magicComponent):
		return nil, errors.New("this is a WebAssembly component; build a core module (for Go: GOOS=wasip1 -buildmode=c-shared)")
	case !bytes.HasPrefix(code, magicCore[:4]):
		return nil, errors.New("not a WebAssembly module: wrong magic number")
	case !bytes.HasPrefix(code, magicCore):
		return nil, errors.New("WebAssembly binary version is not 1")
	}
	var out []section
	r := reader{b: code[len(magicCore):]}
	last := 0
	for len(r.b) > 0 && r.err == nil {
		id := r.byte()
		body := r.bytes(r.u32())
		if r.err != nil {
			break
		}
		if id != secCustom {
			at := sectionOrder[id]
			if at <= last {
				return nil, fmt.Errorf("section %d is unknown, repeated or out of order", id)
			}
			last = at
		}
		out = append(out, section{id, body})
	}
	return out, r.err
}

// reader takes a section's body apart. The first error sticks and every later
// read gives zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) byte() byte {
	b := r.bytes(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func (r *reader) bytes(n uint32) []byte {
	if r.err != nil || uint64(n) > uint64(len(r.b)) {
		r.fail(errTruncated)
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err, r.b = err, nil
	}
}

// u32 reads an unsigned LEB128 number of at most 32 bits.
func (r *reader) u32() uint32 {
	v, n := binary.Uvarint(r.b[:min(len(r.b), 5)])
	if n <= 0 || v > 1<<32-1 {
		r.fail(errTruncated)
		return 0
	}
	r.b = r.b[n:]
	return uint32(v)
}

// count reads the length of a vector. Each element takes at least one byte, so a
// length above the remaining bytes is refused: a bad count cannot ask for more memory
// than the module has.
func (r *reader) count() uint32 {
	n := r.u32()
	if uint64(n) > uint64(len(r.b)) {
		r.fail(errTruncated)
		return 0
	}
	return n
}

func (r *reader) name() string { return string(r.bytes(r.u32())) }

// limits reads a table's or memory's limits.
func (r *reader) limits() (lo, hi uint32, bounded bool) {
	flag := r.byte()
	if flag > 1 {
		r.fail(fmt.Errorf("limits of kind %d (shared or 64 bit) are not supported", flag))
		return 0, 0, false
	}
	lo = r.u32()
	if flag == 1 {
		return lo, r.u32(), true
	}
	return lo, 0, false
}

func appendU32(b []byte, v uint32) []byte { return binary.AppendUvarint(b, uint64(v)) }

func appendSection(b []byte, s section) []byte {
	b = append(b, s.id)
	b = appendU32(b, uint32(len(s.body)))
	return append(b, s.body...)
}
