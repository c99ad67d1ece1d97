package proxyproto

import (
	"net"
	"net/netip"
)

// A Conn is a TCP connection that a proxy made for the client at RemoteAddr.
type Conn struct {
	*net.TCPConn
	client net.Addr
}

// Accept reads the header with which c begins and returns the connection behind
// it. It blocks as long as c's read deadline lets it. Where the header names no
// client, the proxy is the client.
func Accept(c *net.TCPConn) (*Conn, error) {
	client, err := Read(c)
	if err != nil {
		return nil, err
	}
	if client == (netip.AddrPort{}) {
		return &Conn{c, c.RemoteAddr()}, nil
	}
	return &Conn{c, net.TCPAddrFromAddrPort(client)}, nil
}

// RemoteAddr returns the client's address, as the proxy told it.
func (c *Conn) RemoteAddr() net.Addr { return c.client }
