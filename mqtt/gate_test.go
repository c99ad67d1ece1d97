package mqtt

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hpmq/hpmq/internal/memnet"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// addressListener is a listener whose connections have the remote addresses that
// a test sends to it.
type addressListener struct {
	*memnet.Listener
	addresses chan net.Addr // of the next connection
}

func (l addressListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return addressConn{nc, <-l.addresses}, nil
}

// TestConnectsPerAddress: those within the rate are served, a few more are told
// why they are not, and the rest is closed unread.
func TestConnectsPerAddress(t *testing.T) {
	const most = 5
	for _, version := range []packet.Version{packet.V311, packet.V5} {
		runWithServer(t, func(o *Options) { o.ConnectsPerAddress = most }, func(t *testing.T, srv *testServer) {
			l := addressListener{memnet.Listen(), make(chan net.Addr, 1)}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			srv.done.Go(func() {
				if err := srv.broker.Serve(ctx, l, admitTest); err != nil {
					t.Error(err)
				}
			})
			// knock returns the client's connection, or nil if it was closed unread.
			knock := func(addr string) *client {
				l.addresses <- textAddress(addr)
				nc, err := l.Dial()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := nc.Write([]byte("dx\n")); err != nil {
					return nil
				}
				c := &client{t: t, nc: nc, v: version, packets: make(chan packet.Packet, 10)}
				c.startReader()
				return c
			}
			n := 0
			answer := func(c *client) packet.ReasonCode {
				n++
				c.trySend(connectPacket(fmt.Sprint("c", n)))
				return wantPacket[*packet.Connack](c).ReasonCode
			}
			storm := func() {
				for i := range most + halfOpen {
					wantCode := packet.Success
					switch {
					case i < most:
					case version == packet.V5:
						wantCode = packet.ConnectionRateExceeded
					default:
						wantCode = packet.ServerUnavailable // 0x03
					}
					c := knock("192.0.2.7:99")
					if c == nil {
						t.Fatalf("%d: closed unread", i)
					}
					if got := answer(c); got != wantCode {
						t.Fatalf("%d: %s, want %s", i, got, wantCode)
					}
					c.dropConnection()
				}
				before := srv.counters().ConnectionsRefused
				for range 100 {
					if knock("192.0.2.7:99") != nil {
						t.Fatal("heard one too many")
					}
				}
				if got := srv.counters().ConnectionsRefused - before; got != 100 {
					t.Errorf("counted %d refused, want 100", got)
				}
			}
			advanceTime(1100 * time.Millisecond)
			storm()
			for _, other := range []string{"192.0.2.8:99", "127.0.0.1:99"} {
				if got := answer(knock(other)); got != packet.Success {
					t.Errorf("from %s: %s", other, got)
				}
			}
			for range 200 {
				if c := knock("127.0.0.1:99"); c == nil {
					t.Fatal("this machine is counted")
				} else {
					c.dropConnection()
				}
			}
			advanceTime(time.Second)
			storm()
		})
	}
}

func TestGate(t *testing.T) {
	runWithServer(t, func(o *Options) { o.ConnectsPerAddress = 3 }, func(t *testing.T, srv *testServer) {
		g := srv.broker.NewGate()
		admitted := func(n int, remote string) (count int) {
			for range n {
				if g.Admits(textAddress(remote), textAddress("192.0.2.1:8883")) {
					count++
				}
			}
			return count
		}
		const most = 3 + halfOpen
		if got := admitted(100, "192.0.2.7:1"); got != most {
			t.Errorf("admitted %d, want %d", got, most)
		}
		if got := admitted(100, "192.0.2.1:1"); got != 100 {
			t.Errorf("admitted %d from this machine", got)
		}
		if got := admitted(50, "[2001:db8::1]:1") + admitted(50, "[2001:db8::2]:1"); got != most {
			t.Errorf("admitted %d of one network, want %d", got, most)
		}
		if got := srv.counters().ConnectionsRefused; got != 200-2*most {
			t.Errorf("counted %d refused", got)
		}

		// A flood of addresses takes no memory without bound, and is refused.
		address := func(i int) netip.Addr {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], 10<<24+uint32(i))
			return netip.AddrFrom4(a)
		}
		for i := range maxCame {
			g.count(address(i))
		}
		if got := g.count(address(maxCame)); got < 2 {
			t.Error("one more address is known")
		}
		if len(g.came) > maxCame+1 {
			t.Errorf("%d addresses are known", len(g.came))
		}
		if got := g.count(address(0)); got != 2 {
			t.Errorf("a known address: %d, want 2", got)
		}
		advanceTime(time.Second)
		if got := g.count(address(maxCame)); got != 1 || len(g.came) != 1 {
			t.Errorf("a second later: %d of %d addresses", got, len(g.came))
		}
	})
}

func BenchmarkGate(b *testing.B) {
	w := New(Options{Store: store.NewMemory(store.Limits{}), Authorizer: &denyList{}})
	g := w.NewGate()
	remote, local := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 99}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8883}
	b.ReportAllocs()
	for b.Loop() {
		g.Admits(remote, local)
	}
}
