package overlay

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

// deaf is a socket that hears nothing, as one with a forged address.
type deaf struct {
	net.PacketConn
	sent chan struct{} // a token for each packet, as far as there is room
}

func (d deaf) ReadFrom([]byte) (int, net.Addr, error) {
	for b := make([]byte, 1500); ; {
		if _, _, err := d.PacketConn.ReadFrom(b); err != nil {
			return 0, nil, err
		}
	}
}

func (d deaf) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case d.sent <- struct{}{}:
	default:
	}
	return d.PacketConn.WriteTo(b, to)
}

// TestHalfOpenHandshakes begins many that go no further. Most cost nothing, and
// a peer connects all the while.
func TestHalfOpenHandshakes(t *testing.T) {
	const dials = maxHandshakes/4 + 32
	ca := testca.New(t, "lab.test")
	paris, lyon := start(t, ca, "paris"), start(t, ca, "lyon")
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	conn := deaf{udp, make(chan struct{}, dials)}
	transport := &quic.Transport{Conn: conn}
	defer transport.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var dialling sync.WaitGroup
	defer dialling.Wait()
	defer cancel()
	stranger := ca.Issue(t, ca.ID(t, identity.Node, "nice"))
	to := net.UDPAddrFromAddrPort(paris.Addr())
	for range dials {
		dialling.Go(func() {
			cfg := identity.ClientConfig(stranger, []string{ALPN}, paris.ID())
			if _, err := transport.Dial(ctx, to, cfg, paris.opts.quicConfig(1)); err == nil {
				t.Error("connected without hearing anything")
			}
		})
		receive(t, conn.sent, "a packet")
	}
	for began := time.Now(); ; { // the flood may take its packets' place in a buffer
		_, err := lyon.Dial(ctx, paris.Addr().String(), paris.ID())
		if err == nil {
			break
		}
		if time.Since(began) > 6*limit {
			t.Fatal(err)
		}
	}
	if n := paris.handshakes.Load(); n > maxHandshakes/4+1 {
		t.Errorf("%d handshakes under way, want at most %d", n, maxHandshakes/4+1)
	}
	cancel()
	dialling.Wait()
}
