package packet

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"unicode/utf8"
)

// decoder reads the data types of section 1.5 from a packet's body. The first failure
// sticks: all later reads return zero, and err tells it at the end.
type decoder struct {
	b   []byte
	err *Error
}

func (d *decoder) fail(e *Error) {
	if d.err == nil {
		d.err = e
	}
	d.b = nil
}

// take returns the next n bytes, aliasing the body.
func (d *decoder) take(n int, what string) []byte {
	if n > len(d.b) {
		d.fail(malformed("", "packet ends inside "+what))
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte(what string) byte {
	if b := d.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16(what string) uint16 {
	if b := d.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32(what string) uint32 {
	if b := d.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) varint(what string) uint32 {
	v, n, err := parseVarint(d.b, what)
	switch {
	case err != nil:
		d.fail(err)
	case n == 0:
		d.fail(malformed("", "packet ends inside "+what))
	default:
		d.b = d.b[n:]
	}
	return v
}

// binary returns Binary Data, aliasing the body.
func (d *decoder) binary(what string) []byte {
	return d.take(int(d.uint16(what)), what)
}

// text returns a UTF-8 Encoded String, aliasing the body: no U+0000
// [MQTT-1.5.4-2], no encoded surrogates or overlong forms [MQTT-1.5.4-1]; a byte
// order mark is a character like any other [MQTT-1.5.4-3]. statement is the one
// that makes this field a string, if there is one.
func (d *decoder) text(what, statement string) []byte {
	s := d.binary(what)
	if bytes.IndexByte(s, 0) >= 0 { // [MQTT-1.5.4-2] [MQTT-4.7.3-2]
		d.fail(malformed("MQTT-1.5.4-2", what+" contains U+0000"))
	}
	// [MQTT-1.5.4-1] [MQTT-1.5.7-1] [MQTT-3.1.3-4] [MQTT-3.1.3-11] [MQTT-3.1.3-12] [MQTT-3.3.2-1]
	// [MQTT-3.3.2-13] [MQTT-3.3.2-19] [MQTT-3.8.3-1] [MQTT-3.10.3-1]
	if !utf8.Valid(s) {
		d.fail(malformed(cmp.Or(statement, "MQTT-1.5.4-1"), what+" is not UTF-8"))
	}
	return s
}

func (d *decoder) string(what, statement string) string {
	return string(d.text(what, statement))
}

// packetID reads a packet identifier, which is never 0 [MQTT-2.2.1-3].
func (d *decoder) packetID(statement string) uint16 {
	id := d.uint16("packet identifier")
	if id == 0 { // [MQTT-2.2.1-3] [MQTT-2.2.1-5]
		d.fail(violation(statement, "packet identifier is 0"))
	}
	return id
}

// end demands that the body has been read to its last byte.
func (d *decoder) end() error {
	if len(d.b) > 0 { // [MQTT-3.1.4-1] [MQTT-4.13.1-1] [MQTT-3.1.2-16] [MQTT-3.1.2-18]
		d.fail(malformed("", "packet goes on after its last field"))
	}
	return asError(d.err)
}

// checkTopic refuses an empty Topic Name [MQTT-4.7.3-1] and one that contains
// wildcards.
func (d *decoder) checkTopic(name []byte, what, statement string) {
	switch {
	case d.err != nil:
	case len(name) == 0: // [MQTT-4.7.3-1]
		d.fail(violation("MQTT-4.7.3-1", what+" is empty"))
	case bytes.IndexByte(name, '+') >= 0 || bytes.IndexByte(name, '#') >= 0: // [MQTT-3.3.2-2] [MQTT-3.3.2-14] [MQTT-4.7.0-1]
		d.fail(&Error{TopicNameInvalid, statement, what + " contains a wildcard"})
	}
}

// parseVarint reads a Variable Byte Integer. n == 0 without an error means that
// b ends too early.
func parseVarint(b []byte, what string) (v uint32, n int, err *Error) {
	for n < len(b) && n < 4 {
		c := b[n]
		v |= uint32(c&0x7F) << (7 * n)
		n++
		if c < 0x80 {
			if c == 0 && n > 1 { // [MQTT-1.5.5-1]
				return 0, 0, malformed("MQTT-1.5.5-1", what+" is not in its shortest form")
			}
			return v, n, nil
		}
	}
	if n == 4 {
		return 0, 0, malformed("", what+" has more than four bytes")
	}
	return 0, 0, nil
}

func appendVarint(dst []byte, v uint32) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}

// maxField is the most bytes that a string or Binary Data carries.
const maxField = 1<<16 - 1

// textLen returns how many bytes of s are sent: all, or as many whole
// characters as fit.
func textLen(s string) int {
	if len(s) <= maxField {
		return len(s)
	}
	n := maxField
	for n > maxField-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return n
}

func textSize(s string) int { return 2 + textLen(s) }

func binarySize(b []byte) int { return 2 + min(len(b), maxField) }

func appendText(dst []byte, s string) []byte {
	n := textLen(s)
	return append(binary.BigEndian.AppendUint16(dst, uint16(n)), s[:n]...)
}

func appendBinary(dst, b []byte) []byte {
	n := min(len(b), maxField)
	return append(binary.BigEndian.AppendUint16(dst, uint16(n)), b[:n]...)
}
