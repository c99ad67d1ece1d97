package link

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

func TestWantsDoesNotAllocate(t *testing.T) {
	l := New(Options{Site: "x", Store: store.NewMemory(store.Limits{}), Peers: func() []Peer { return nil }})
	p := newPeer(l, "y")
	p.mustPicture(t, "a/+")
	if n := testing.AllocsPerRun(100, func() {
		if !l.Wants("a/b") || l.Wants("b") {
			t.Fatal("wrong answer")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestStampAllocations(t *testing.T) {
	s := stamper{site: "paris", epoch: 1 << 60}
	m := message("a/b", "payload", 1)
	buf := make([]byte, 0, 4096)
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() {
		buf = s.publish(m, 1, laneLog, 12345, now).Append(buf[:0], packet.V5)
	}); n > 1 {
		t.Errorf("%v allocations, want the text of the stamp alone", n)
	}
}

// sink is a broker that keeps nothing but the floor.
type sink struct {
	store *store.Memory
	got   chan struct{}
	mu    sync.Mutex
	left  int
}

func (b *sink) Inject(_ *store.Message, _ bool, tx func(store.Tx), done func(error)) {
	b.store.Update(tx, func(err error) {
		done(err)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.left--; b.left == 0 {
			b.got <- struct{}{}
		}
	})
}
func (b *sink) Filters() []string { return []string{"t/#"} }
func (b *sink) Reroute()          {}

type tcpDialer struct{ addr string }

func (d tcpDialer) Open(ctx context.Context, _ identity.ID) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", d.addr)
}

// BenchmarkLink is one site sending QoS 1 to another over TCP loopback, both
// with the memory store, acknowledged per hop.
func BenchmarkLink(b *testing.B) {
	for _, size := range []int{100, 1000} {
		b.Run(fmt.Sprint("qos=1/size=", size), func(b *testing.B) { benchmarkLink(b, size) })
	}
}

func benchmarkLink(b *testing.B, size int) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	paris, lyon := Peer{ID: nodeOf("paris"), Site: "paris"}, Peer{ID: nodeOf("lyon"), Site: "lyon"}
	peers := func() []Peer { return []Peer{paris, lyon} }
	never := make(chan struct{})
	links := make(map[string]*Links)
	listeners := make(map[string]net.Listener)
	brokers := make(map[string]*sink)
	for _, p := range peers() {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners[p.Site] = ln
		defer ln.Close()
	}
	for _, p := range peers() {
		other := lyon
		if p == lyon {
			other = paris
		}
		st := store.NewMemory(store.Limits{Outbound: store.QueueLimit{Messages: 1 << 30, Bytes: 1 << 40}})
		brokers[p.Site] = &sink{store: st, got: make(chan struct{}, 1)}
		l := New(Options{
			Site: p.Site, Store: st, Dialer: tcpDialer{listeners[other.Site].Addr().String()},
			Peers: peers, Changed: func() <-chan struct{} { return never },
		})
		links[p.Site] = l
		wg.Go(func() {
			for {
				c, err := listeners[p.Site].Accept()
				if err != nil {
					return
				}
				wg.Go(func() { l.Handle(ctx, other.ID, c) })
			}
		})
		wg.Go(func() {
			if err := l.Run(ctx, brokers[p.Site]); err != nil {
				b.Error(err)
			}
		})
	}
	for !links["paris"].Stats()[0].Up {
		<-time.After(time.Millisecond)
	}
	to := brokers["lyon"]
	m := make([]*store.Message, 1000)
	for i := range m {
		m[i] = message(fmt.Sprint("t/", i), string(make([]byte, size)), 1)
	}
	to.left = b.N
	b.ReportAllocs()
	b.SetBytes(int64(size))
	b.ResetTimer()
	from := brokers["paris"].store
	for i := range b.N {
		from.Update(func(tx store.Tx) { links["paris"].Forward(tx, m[i%1000]) }, nil)
	}
	<-to.got
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}
