package mqtt

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// errNoOwner tells that nobody could be found at the other end.
var errNoOwner = errors.New("the owner of the peer's socket is unknown")

// OwnPeer reports whether the process at the other end of a loopback or unix
// connection belongs to this process's user or to root. Whoever cannot be
// determined is not: the error says why.
func OwnPeer(nc net.Conn) (bool, error) {
	uid, err := peerUID(nc)
	if err != nil {
		return false, fmt.Errorf("find the user at %s: %w", remote(nc), err)
	}
	return uid == 0 || int64(uid) == int64(os.Getuid()), nil
}
