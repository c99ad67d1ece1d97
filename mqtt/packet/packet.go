package packet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Packet is any of the fifteen, for code that does not care which. The hot
// paths use the concrete types: a value behind an interface escapes to the heap.
type Packet interface {
	// Type returns the packet's type.
	Type() Type
	// Decode replaces the packet by the one with these flags in its fixed header and
	// with this body. After an error the packet's content is undefined.
	Decode(v Version, flags byte, body []byte) error
	// Append appends the whole packet, fixed header included.
	Append(dst []byte, v Version) []byte
	// Size returns exactly how many bytes Append appends.
	Size(v Version) int
}

// New returns an empty packet of type t, or nil if there is no such type.
func New(t Type) Packet {
	switch t {
	case TypeConnect:
		return new(Connect)
	case TypeConnack:
		return new(Connack)
	case TypePublish:
		return new(Publish)
	case TypePuback:
		return new(Puback)
	case TypePubrec:
		return new(Pubrec)
	case TypePubrel:
		return new(Pubrel)
	case TypePubcomp:
		return new(Pubcomp)
	case TypeSubscribe:
		return new(Subscribe)
	case TypeSuback:
		return new(Suback)
	case TypeUnsubscribe:
		return new(Unsubscribe)
	case TypeUnsuback:
		return new(Unsuback)
	case TypePingreq:
		return new(Pingreq)
	case TypePingresp:
		return new(Pingresp)
	case TypeDisconnect:
		return new(Disconnect)
	case TypeAuth:
		return new(Auth)
	}
	return nil
}

// Decode reads the packet that h announces from body, which has h.Length bytes.
func Decode(v Version, h Header, body []byte) (Packet, error) {
	p := New(h.Type)
	if p == nil {
		return nil, checkFlags(h.Type, h.Flags)
	}
	if err := p.Decode(v, h.Flags, body); err != nil {
		return nil, err
	}
	return p, nil
}

// Read reads one packet of at most limit bytes from r. The end of the stream before a
// packet is io.EOF, inside one io.ErrUnexpectedEOF. Memory grows with the bytes that
// arrive, not with the length that the header claims.
func Read(r *bufio.Reader, v Version, limit int) (Packet, error) {
	h, n, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	if n+h.Length > limit {
		return nil, &Error{PacketTooLarge, "MQTT-3.2.2-15", fmt.Sprintf("%s of %d bytes exceeds %d", h.Type, n+h.Length, limit)}
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(h.Length)); err != nil {
		return nil, midPacket(err)
	}
	return Decode(v, h, body.Bytes())
}

func readHeader(r *bufio.Reader) (Header, int, error) {
	for size := 1; ; size++ {
		b, err := r.Peek(size)
		if err != nil && len(b) > 0 {
			return Header{}, 0, midPacket(err)
		}
		if err != nil {
			return Header{}, 0, err
		}
		h, n, err := ParseHeader(b)
		if err != nil {
			return Header{}, 0, err
		}
		if n > 0 {
			_, err = r.Discard(n)
			return h, n, err
		}
	}
}

// midPacket tells a stream that ends inside a packet from one that ends after.
func midPacket(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
