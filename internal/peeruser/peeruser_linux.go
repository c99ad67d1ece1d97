package peeruser

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// uidOf returns the user of the process at the other end of nc. The peer's own
// socket is in this network namespace if the connection is over loopback.
//
// Only an established socket that a process holds counts: the kernel shows user 0
// for one that its process closed, or that lingers in TIME_WAIT, and would make a
// stranger root. A user of another user namespace shows as the overflow user.
func uidOf(nc net.Conn) (uint32, error) {
	if uc, ok := nc.(*net.UnixConn); ok {
		return unixUID(uc)
	}
	peer, ok1 := addrPort(nc.RemoteAddr())
	local, ok2 := addrPort(nc.LocalAddr())
	if !ok1 || !ok2 || !peer.Addr().IsLoopback() || !local.Addr().IsLoopback() {
		return 0, errors.New("not a loopback connection")
	}
	uid, err := diagUID(peer, local)
	if err == nil || errors.Is(err, errNoOwner) {
		return uid, err
	}
	return procUID(peer, local) // a kernel without sock_diag
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), true
}

func unixUID(uc *net.UnixConn) (uint32, error) {
	raw, err := uc.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, inner); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// Layout of linux/inet_diag.h.
const (
	sockDiagByFamily = 20
	diagRequestLen   = 56
	diagMessageLen   = 72
	diagStateOffset  = 1
	diagUIDOffset    = 64
	diagInodeOffset  = 68
	tcpEstablished   = 1
)

// diagUID asks sock_diag for exactly the socket from peer to local.
func diagUID(peer, local netip.AddrPort) (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("open sock_diag: %w", err)
	}
	defer unix.Close(fd)
	timeout := unix.Timeval{Sec: 1}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	if err := unix.Sendto(fd, diagRequest(peer, local), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask sock_diag: %w", err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return 0, fmt.Errorf("read sock_diag: %w", err)
	}
	return parseDiag(b[:n])
}

func diagRequest(peer, local netip.AddrPort) []byte {
	le := binary.NativeEndian
	b := make([]byte, unix.NLMSG_HDRLEN+diagRequestLen)
	le.PutUint32(b, uint32(len(b)))
	le.PutUint16(b[4:], sockDiagByFamily)
	le.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[unix.NLMSG_HDRLEN:]
	r[0], r[1] = unix.AF_INET6, unix.IPPROTO_TCP
	if peer.Addr().Is4() {
		r[0] = unix.AF_INET
	}
	le.PutUint32(r[4:], 0xFFFFFFFF) // all states; the answer's is looked at
	binary.BigEndian.PutUint16(r[8:], peer.Port())
	binary.BigEndian.PutUint16(r[10:], local.Port())
	copy(r[12:28], peer.Addr().AsSlice())
	copy(r[28:44], local.Addr().AsSlice())
	le.PutUint64(r[48:], 0xFFFFFFFFFFFFFFFF) // any cookie
	return b
}

func parseDiag(b []byte) (uint32, error) {
	le := binary.NativeEndian
	if len(b) < unix.NLMSG_HDRLEN {
		return 0, errors.New("short answer of sock_diag")
	}
	m := b[unix.NLMSG_HDRLEN:]
	if le.Uint16(b[4:]) == unix.NLMSG_ERROR && len(m) >= 4 {
		if errno := unix.Errno(-int32(le.Uint32(m))); errno != unix.ENOENT {
			return 0, fmt.Errorf("sock_diag: %w", errno)
		}
		return 0, errNoOwner
	}
	if le.Uint16(b[4:]) != sockDiagByFamily || len(m) < diagMessageLen {
		return 0, errors.New("strange answer of sock_diag")
	}
	if m[diagStateOffset] != tcpEstablished || le.Uint32(m[diagInodeOffset:]) == 0 {
		return 0, errNoOwner
	}
	return le.Uint32(m[diagUIDOffset:]), nil
}

// procUID reads the same from /proc/net/tcp or tcp6.
func procUID(peer, local netip.AddrPort) (uint32, error) {
	name := "/proc/net/tcp"
	if !peer.Addr().Is4() {
		name = "/proc/net/tcp6"
	}
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	from, to := procAddr(peer), procAddr(local)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		field := strings.Fields(lines.Text())
		if len(field) < 10 || field[1] != from || field[2] != to || field[3] != "01" || field[9] == "0" {
			continue
		}
		uid, err := strconv.ParseUint(field[7], 10, 32)
		return uint32(uid), err
	}
	return 0, errors.Join(errNoOwner, lines.Err())
}

// procAddr writes an address as /proc does: words of the host's byte order.
func procAddr(a netip.AddrPort) string {
	b := a.Addr().AsSlice()
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], binary.NativeEndian.Uint32(b[i:]))
	}
	return strings.ToUpper(hex.EncodeToString(b)) + fmt.Sprintf(":%04X", a.Port())
}
