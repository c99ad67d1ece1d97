// Package peeruser tells which user's process is at the other end of a connection
// from this machine.
//
// It decides no rights. A unix socket carries the peer's user itself. For TCP over
// loopback the kernel is asked for the peer's own socket: by sock_diag, or from
// /proc/net/tcp on a kernel without that. Other connections, other systems than
// Linux and sockets that no process holds any more give an error, never a user.
package peeruser

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// errNoOwner says that no process holds the peer's socket, or that this system does
// not tell which one.
var errNoOwner = errors.New("the owner of the peer's socket is unknown")

// Own reports whether the process at the other end of a loopback or unix connection
// belongs to this process's user or to root. Where the user cannot be determined it
// reports false, and the error says why.
func Own(nc net.Conn) (bool, error) {
	uid, err := uidOf(nc)
	if err != nil {
		return false, fmt.Errorf("find the user at %s: %w", remoteAddress(nc), err)
	}
	return uid == 0 || int64(uid) == int64(os.Getuid()), nil
}

func remoteAddress(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}
