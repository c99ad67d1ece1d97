package mqtt

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
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

func TestOwnPeer(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": filepath.Join(t.TempDir(), "s")}[network]
			l, err := net.Listen(network, address)
			if err != nil && network == "tcp6" {
				t.Skip(err) // a machine without IPv6
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			client := dialTCP(t, l)
			defer client.Close()
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			if own, err := OwnPeer(server); !own || err != nil {
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
			if own, err := OwnPeer(server); own {
				t.Errorf("a closed client is taken for our own (%v)", err)
			}
		})
	}
}
