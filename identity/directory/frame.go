package directory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// On a stream every message is a frame: a type byte, a little-endian 32-bit
// length, and that many bytes. The first frame is the follower's hello. A frame
// of a type that this version does not know is skipped, so that a later version
// may offer more (a signed snapshot in place of a long history, say).
type frameType byte

const (
	frameHello   frameType = 1 // Report of the follower
	frameRecords frameType = 2 // new records of the server, back to back
	frameHead    frameType = 3 // Head
	frameRefused frameType = 4 // Point of the server, which contradicts the follower's; the end
	frameFetch   frameType = 5 // Point of the follower, which lacks the records behind it
	frameReport  frameType = 6 // Report of the follower, each time it changes
	frameAnswer  frameType = 7 // to a fetch: the next records, back to back; none if the server lacks them too
)

const (
	maxPointFrame   = 64
	maxRecordsFrame = 2 << 20
	maxUnknownFrame = 64 << 10
)

func (t frameType) limit() int {
	switch t {
	case frameHello, frameRefused, frameFetch, frameReport:
		return maxPointFrame
	case frameHead:
		return maxHead
	case frameRecords, frameAnswer:
		return maxRecordsFrame
	}
	return maxUnknownFrame
}

func (t frameType) known() bool { return t >= frameHello && t <= frameAnswer }

func writeMessage(w io.Writer, t frameType, body []byte) error {
	b := make([]byte, 5, 5+len(body))
	b[0] = byte(t)
	binary.LittleEndian.PutUint32(b[1:], uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readMessage reads the next message of a type that this version knows. A
// length beyond the limit of its type is refused before anything is allocated.
func readMessage(r io.Reader) (frameType, []byte, error) {
	for {
		t, n, err := readFrameHeader(r)
		if err != nil {
			return 0, nil, err
		}
		if !t.known() {
			_, err = io.CopyN(io.Discard, r, int64(n))
			if err != nil {
				return 0, nil, unexpectedEOF(err)
			}
			continue
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return 0, nil, unexpectedEOF(err)
		}
		return t, body, nil
	}
}

func readFrameHeader(r io.Reader) (frameType, uint32, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, err
	}
	t, n := frameType(head[0]), binary.LittleEndian.Uint32(head[1:])
	if int64(n) > int64(t.limit()) {
		return 0, 0, fmt.Errorf("directory stream: message of type %d and %d bytes", t, n)
	}
	return t, n, nil
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeValue sends the CBOR encoding of v as one message.
func writeValue(w io.Writer, t frameType, v any) error {
	b, err := encoding.Marshal(v)
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
