package quic

import (
	"errors"
	"net"
	"syscall"
)

// socket is the UDP port. quic-go takes an error of the socket as the end of a
// connection. So an interface or a route that is away for some seconds would end every
// connection that sends meanwhile. Here such an error is a lost packet. The embedded
// type's other methods let quic-go use the kernel's features, such as segmentation
// offload.
type socket struct{ *net.UDPConn }

// WriteMsgUDP implements quic-go's OOBCapablePacketConn.
func (s socket) WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (n, oobn int, err error) {
	n, oobn, err = s.UDPConn.WriteMsgUDP(b, oob, to)
	if passing(err) {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

// passing reports whether sending fails only at the moment.
func passing(err error) bool {
	for _, e := range []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
