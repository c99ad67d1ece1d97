package proxyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	fixedLen  = len(signature) + 4
	// maxLen bounds the part after the fixed one. The addresses take 36 bytes at most;
	// the rest is extensions, which are not read.
	maxLen = 4096
)

// The second half of a header's first byte after the signature, and of the next.
const (
	version      = 2
	commandLocal = 0
	commandProxy = 1
	familyIPv4   = 1
	familyIPv6   = 2
	streamSocket = 1
)

// ErrMalformed is the error of bytes that are no header of version 2.
var ErrMalformed = errors.New("malformed PROXY header")

// Read takes exactly a header from r. It returns the address of the client that the
// proxy speaks for. The zero AddrPort means that the proxy speaks for itself, as in a
// health check, or names no address. An error that is not of r is [ErrMalformed].
func Read(r io.Reader) (netip.AddrPort, error) {
	var fixed [fixedLen]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("PROXY header: %w", err)
	}
	if string(fixed[:len(signature)]) != signature {
		return netip.AddrPort{}, ErrMalformed
	}
	rest := int(binary.BigEndian.Uint16(fixed[fixedLen-2:]))
	if rest > maxLen {
		return netip.AddrPort{}, fmt.Errorf("%w: %d bytes", ErrMalformed, rest)
	}
	body := make([]byte, rest)
	if _, err := io.ReadFull(r, body); err != nil {
		return netip.AddrPort{}, fmt.Errorf("PROXY header: %w", err)
	}
	return parse(fixed[len(signature)], fixed[len(signature)+1], body)
}

// parse reads the part after the signature: version and command, family and protocol,
// addresses and extensions.
func parse(what, family byte, body []byte) (netip.AddrPort, error) {
	switch {
	case what>>4 != version:
		return netip.AddrPort{}, fmt.Errorf("%w: version %d", ErrMalformed, what>>4)
	case what&15 == commandLocal:
		return netip.AddrPort{}, nil
	case what&15 != commandProxy:
		return netip.AddrPort{}, fmt.Errorf("%w: command %d", ErrMalformed, what&15)
	case family == 0: // of a kind that the proxy cannot tell
		return netip.AddrPort{}, nil
	case family&15 != streamSocket:
		return netip.AddrPort{}, fmt.Errorf("%w: not of a stream (%#x)", ErrMalformed, family)
	}
	var size int // of one address
	switch family >> 4 {
	case familyIPv4:
		size = 4
	case familyIPv6:
		size = 16
	default:
		return netip.AddrPort{}, fmt.Errorf("%w: address family %d", ErrMalformed, family>>4)
	}
	if len(body) < 2*size+4 {
		return netip.AddrPort{}, fmt.Errorf("%w: %d bytes of addresses", ErrMalformed, len(body))
	}
	addr, _ := netip.AddrFromSlice(body[:size])
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(body[2*size:])), nil
}
