package wasm

import (
	"bytes"
	"strings"
)

// lines turns a guest's writes to a standard stream into log lines. Writes after the
// end of its time are dropped: one call can write all its memory.
type lines struct {
	level    Level
	log      func(Level, string)
	deadline *deadline
	buf      []byte
}

// Write implements [io.Writer] and never fails.
func (l *lines) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 && l.deadline.Err() == nil {
		part := b[:min(len(b), maxLog-len(l.buf))]
		if end := bytes.IndexByte(part, '\n'); end >= 0 {
			part = part[:end]
		}
		l.buf = append(l.buf, part...)
		b = b[len(part):]
		if len(l.buf) == maxLog || (len(b) > 0 && b[0] == '\n') {
			l.flush()
		}
		if len(b) > 0 && b[0] == '\n' {
			b = b[1:]
		}
	}
	return n, nil
}

func (l *lines) flush() {
	l.log(l.level, strings.ToValidUTF8(string(l.buf), "�"))
	l.buf = l.buf[:0]
}
