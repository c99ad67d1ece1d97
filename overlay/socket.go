package overlay

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
)

// socketBuffer is the buffer size requested in both directions. The kernel grants as
// much as its limits allow, and quic-go gets no cause to complain about the rest: see
// [socket.SetReadBuffer].
const socketBuffer = 4 << 20

// A socket owns the overlay's one UDP port and tells its users apart by the
// first byte of a packet: 1-4 is WireGuard, 0 a path probe, a set bit 6 or 7
// QUIC. A probe is a knock, see [Node.Knock]; nothing serves WireGuard yet.
//
// It is a plain net.PacketConn for quic-go and has no SyscallConn on purpose:
// quic-go would set the don't-fragment bit on the port for all its users.
type socket struct {
	net.PacketConn
	counters *counters
	knocked  func(from net.Addr) // called for every probe; must not block
	lastErr  atomic.Pointer[sendError]
}

// sendError is the latest packet that the kernel refused to send.
type sendError struct {
	to  string
	err error
}

func listen(addr string, c *counters) (*socket, error) {
	laddr, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("overlay address %s: %w", addr, err)
	}
	udp, err := net.ListenUDP("udp", laddr)
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	// Less buffer than asked for costs throughput, not correctness.
	_ = udp.SetReadBuffer(socketBuffer)
	_ = udp.SetWriteBuffer(socketBuffer)
	return &socket{PacketConn: udp, counters: c}, nil
}

// ReadFrom returns the next QUIC packet.
func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, addr, err := s.PacketConn.ReadFrom(b)
		if err != nil {
			return 0, nil, err
		}
		switch {
		case n == 0:
			s.counters.garbage.Add(1)
		case b[0]&0xc0 != 0:
			return n, addr, nil
		case b[0] == 0:
			s.counters.probes.Add(1)
			s.knocked(addr)
		case b[0] <= 4:
			s.counters.wireGuard.Add(1)
		default:
			s.counters.garbage.Add(1)
		}
	}
}

// WriteTo sends one packet. A packet that the kernel cannot send now is a lost
// packet: quic-go would end the connection for it, and an interface that is
// down for some seconds must not do that.
func (s *socket) WriteTo(b []byte, to net.Addr) (int, error) {
	n, err := s.PacketConn.WriteTo(b, to)
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EMSGSIZE) {
		return n, err
	}
	s.counters.unsendable.Add(1)
	s.lastErr.Store(&sendError{to.String(), err})
	return len(b), nil
}

// explain adds to a failed dial the kernel's error for the address.
func (s *socket) explain(to net.Addr, err error) error {
	if last := s.lastErr.Load(); last != nil && last.to == to.String() {
		return fmt.Errorf("%w (%w)", err, last.err)
	}
	return err
}

// SetReadBuffer does nothing: quic-go calls it on any socket and complains where
// it is missing.
func (s *socket) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing, for the same reason.
func (s *socket) SetWriteBuffer(int) error { return nil }
