package peeruser

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func mustAddr(t *testing.T, a net.Addr) netip.AddrPort {
	t.Helper()
	ap, ok := addrPort(a)
	if !ok {
		t.Fatalf("%v is no TCP address", a)
	}
	return ap
}

func FuzzParseDiag(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 16+diagMessageLen))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseDiag(b) })
}

func TestOwn(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": filepath.Join(t.TempDir(), "s")}[network]
			l, err := net.Listen(network, address)
			if err != nil && network == "tcp6" {
				t.Skipf("no IPv6 on this machine: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			client, err := net.Dial(network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			if own, err := Own(server); !own || err != nil {
				t.Errorf("own client: %v, %v", own, err)
			}
			if network == "unix" {
				return
			}
			uid, err := procUID(mustAddr(t, server.RemoteAddr()), mustAddr(t, server.LocalAddr()))
			if err != nil || int(uid) != os.Getuid() {
				t.Errorf("from /proc: %d, %v", uid, err)
			}
			client.Close() // an orphaned socket is shown with user 0
			if own, err := Own(server); own {
				t.Errorf("a closed client is taken for our own (%v)", err)
			}
		})
	}
}

func TestNoOwnerOnOtherConnections(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if own, err := Own(near); own || err == nil {
		t.Errorf("a pipe has an owner: %v, %v", own, err)
	}
	for _, a := range []string{"192.0.2.1:1", "[fe80::1%lo]:1"} {
		nc := addressed{near, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(a))}
		if own, err := Own(nc); own || err == nil {
			t.Errorf("%s has an owner: %v, %v", a, own, err)
		}
	}
}

type addressed struct {
	net.Conn
	at net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.at }
func (a addressed) LocalAddr() net.Addr  { return a.at }

// TestParseDiag has the answers that must not make a stranger root.
func TestParseDiag(t *testing.T) {
	answer := func(kind uint16, change func(m []byte)) []byte {
		b := make([]byte, unix.NLMSG_HDRLEN+diagMessageLen)
		binary.NativeEndian.PutUint16(b[4:], kind)
		m := b[unix.NLMSG_HDRLEN:]
		m[diagStateOffset] = tcpEstablished
		binary.NativeEndian.PutUint32(m[diagUIDOffset:], 1000)
		binary.NativeEndian.PutUint32(m[diagInodeOffset:], 7)
		change(m)
		return b
	}
	same := func([]byte) {}
	failed := func(errno unix.Errno) func([]byte) {
		return func(m []byte) { binary.NativeEndian.PutUint32(m, uint32(-int32(errno))) }
	}
	for _, tt := range []struct {
		name    string
		b       []byte
		uid     uint32
		refused bool
		absent  bool // errNoOwner
	}{
		{"established", answer(sockDiagByFamily, same), 1000, false, false},
		{"TIME_WAIT", answer(sockDiagByFamily, func(m []byte) { m[diagStateOffset] = 6 }), 0, true, true},
		{"held by no process", answer(sockDiagByFamily, func(m []byte) { clear(m[diagInodeOffset:]) }), 0, true, true},
		{"no such socket", answer(unix.NLMSG_ERROR, failed(unix.ENOENT)), 0, true, true},
		{"no permission", answer(unix.NLMSG_ERROR, failed(unix.EPERM)), 0, true, false},
		{"of another kind", answer(unix.NLMSG_DONE, same), 0, true, false},
		{"cut short", answer(sockDiagByFamily, same)[:unix.NLMSG_HDRLEN+diagMessageLen-1], 0, true, false},
	} {
		uid, err := parseDiag(tt.b)
		if uid != tt.uid || (err != nil) != tt.refused || errors.Is(err, errNoOwner) != tt.absent {
			t.Errorf("%s: user %d, %v", tt.name, uid, err)
		}
	}
}

func TestProcAddr(t *testing.T) {
	for a, want := range map[string]string{"127.0.0.1:80": "0100007F:0050", "[::1]:8883": "00000000000000000000000001000000:22B3"} {
		if got := procAddr(netip.MustParseAddrPort(a)); got != want && binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
			t.Errorf("%s: %s, want %s", a, got, want)
		}
	}
}
