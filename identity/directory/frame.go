package directory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// On a stream every message is a frame: a type byte, a little-endian 32-bit
// length, and that many bytes. The follower sends one hello; everything else
// goes the other way.
type frameType byte

const (
	frameHello   frameType = 1 // Point of the follower
	frameRecords frameType = 2 // one or more records, back to back
	frameHead    frameType = 3 // Head
	frameRefused frameType = 4 // Point of the server, which contradicts the hello; the end
)

const (
	maxPointFrame   = 64
	maxRecordsFrame = 2 << 20
)

func (t frameType) limit() int {
	switch t {
	case frameHello, frameRefused:
		return maxPointFrame
	case frameHead:
		return maxHead
	case frameRecords:
		return maxRecordsFrame
	}
	return 0
}

func writeMessage(w io.Writer, t frameType, body []byte) error {
	b := make([]byte, 5, 5+len(body))
	b[0] = byte(t)
	binary.LittleEndian.PutUint32(b[1:], uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readMessage reads one message. A length beyond what its type may have is
// refused before anything is allocated.
func readMessage(r io.Reader) (frameType, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	t, n := frameType(head[0]), binary.LittleEndian.Uint32(head[1:])
	if int64(n) > int64(t.limit()) {
		return 0, nil, fmt.Errorf("directory stream: message of type %d and %d bytes", t, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return t, body, nil
}

func writePoint(w io.Writer, t frameType, p Point) error {
	b, err := encoding.Marshal(p)
	if err != nil {
		return err
	}
	return writeMessage(w, t, b)
}

func decodePoint(b []byte) (Point, error) {
	var p Point
	if err := decoding.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("directory stream: position: %w", err)
	}
	return p, nil
}
