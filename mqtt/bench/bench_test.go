package bench

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// everything allows everything but subscriptions to "closed/#".
type everything struct{}

func (everything) Rights(mqtt.Principal) mqtt.Rights { return everything{} }

func (everything) Publish(string, byte, bool, int) mqtt.Verdict { return mqtt.Verdict{Allowed: true} }

func (everything) Subscribe(filter string) mqtt.Verdict {
	return mqtt.Verdict{Allowed: filter != "closed/0", Reason: "not granted"}
}
func (everything) Receive(string) mqtt.Verdict               { return mqtt.Verdict{Allowed: true} }
func (everything) Will(string, byte, bool, int) mqtt.Verdict { return mqtt.Verdict{Allowed: true} }

// broker starts a broker of ours and returns its address.
func broker(t *testing.T) string {
	t.Helper()
	b := mqtt.New(mqtt.Options{Store: store.NewMemory(store.Limits{}), Authorizer: everything{}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	admit := func(net.Conn) (mqtt.Principal, error) {
		return mqtt.Principal{ID: identity.ID{TrustDomain: "bench.test", Kind: identity.Device, Name: "load"}}, nil
	}
	served.Go(func() { _ = b.Serve(ctx, l, admit) })
	t.Cleanup(func() {
		cancel()
		served.Wait()
	})
	return l.Addr().String()
}

// hidden keeps a loop from seeing the socket, as TLS does.
type hidden struct{ net.Conn }

func dialer(addr string, hide bool) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil && hide {
			c = hidden{c}
		}
		return c, err
	}
}

// short makes a load fit for a test.
func short(l Load) Load {
	l.Warmup, l.Duration, l.Patience = 10*time.Millisecond, 100*time.Millisecond, 5*time.Second
	l.Publishers, l.Subscribers = min(l.Publishers, 8), min(l.Subscribers, 8)
	l.Topics, l.Filters = min(l.Topics, 8), min(l.Filters, 1000)
	l.Connections = min(l.Connections, 50)
	return l
}

// Every scenario comes through faultlessly, with each loop and in each version.
func TestLoads(t *testing.T) {
	addr := broker(t)
	for _, l := range Loads() {
		for name, target := range map[string]Target{
			"sockets": {Dial: dialer(addr, false), Version: packet.V311},
			"streams": {Dial: dialer(addr, true), Version: packet.V5},
		} {
			t.Run(l.Name+"/"+name, func(t *testing.T) {
				target.Prefix, target.PID = "test/"+name, os.Getpid()
				start := time.Now()
				r, err := target.Run(t.Context(), short(l))
				took := time.Since(start)
				if err != nil {
					t.Fatal(err)
				}
				if !r.Faultless() || r.Delivered != r.Expected || r.PerSecond <= 0 || r.BrokerMicros <= 0 || r.Delay.P50 <= 0 {
					t.Errorf("result %+v", r)
				}
				if l.Kind == Messages && (r.Sent == 0 || l.QoS > 0 && r.Acknowledged != r.Sent) {
					t.Errorf("%d sent, %d acknowledged", r.Sent, r.Acknowledged)
				}
				if most := l.Rate*took.Seconds() + 8; l.Rate > 0 && float64(r.Sent) > most { // fewer is a busy machine
					t.Errorf("%d sent in %v, want at most %.0f", r.Sent, took, most)
				}
				if l.Filters > 0 && r.Expected != 4*r.Sent {
					t.Errorf("%d sent, %d expected, want four times that", r.Sent, r.Expected)
				}
			})
		}
	}
}

// A broker that does wrong is found out.
func TestFaults(t *testing.T) {
	clone := func(m []byte) []byte { return append([]byte(nil), m...) }
	for name, tt := range map[string]struct {
		spoil func(n int, m []byte) [][]byte // the fate of the n-th message
		found func(*Result) uint64
	}{
		"drops": {
			func(n int, m []byte) [][]byte {
				if n%10 == 9 {
					return nil
				}
				return [][]byte{m}
			},
			func(r *Result) uint64 { return r.Lost },
		},
		"repeats": {
			func(n int, m []byte) [][]byte {
				if n%10 == 9 {
					return [][]byte{m, m}
				}
				return [][]byte{m}
			},
			func(r *Result) uint64 { return r.Duplicated },
		},
		"reorders": {
			func() func(n int, m []byte) [][]byte {
				var kept []byte
				return func(n int, m []byte) [][]byte {
					switch n % 10 {
					case 8:
						kept = clone(m)
						return nil
					case 9:
						return [][]byte{m, kept}
					}
					return [][]byte{m}
				}
			}(),
			func(r *Result) uint64 { return r.Reordered },
		},
		"corrupts": {
			func(n int, m []byte) [][]byte {
				if n%10 == 9 {
					m = clone(m)
					m[len(m)-64] ^= 1
				}
				return [][]byte{m}
			},
			func(r *Result) uint64 { return r.Corrupt },
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := Target{Dial: dialer(crookedBroker(t, tt.spoil), false), Version: packet.V311, Prefix: "t"}
			l := short(Loads()[0])
			l.Patience = 50 * time.Millisecond
			r, err := target.Run(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			// Of ten messages nine come, at least. A message that a busy machine did
			// not bring in time counts as lost, with every kind of fault.
			came := r.Delivered + r.Corrupt
			if n := tt.found(r); r.Faultless() || n < came/10-min(came/10, 2) || name != "drops" && n > came/9+1 {
				t.Errorf("found %d with %d delivered: %+v", n, came, r)
			}
		})
	}
}

// crookedBroker sends each message to the last subscriber after spoil.
func crookedBroker(t *testing.T, spoil func(int, []byte) [][]byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	var subscriber net.Conn
	count := 0
	serve := func(c net.Conn) {
		defer c.Close()
		r := bufio.NewReader(c)
		for {
			p, err := packet.Read(r, packet.V311, 1<<20)
			if err != nil {
				return
			}
			mu.Lock()
			switch p := p.(type) {
			case *packet.Connect:
				_, _ = c.Write((&packet.Connack{}).Append(nil, packet.V311))
			case *packet.Subscribe:
				subscriber = c
				_, _ = c.Write((&packet.Suback{PacketID: p.PacketID, ReasonCodes: []packet.ReasonCode{0}}).Append(nil, packet.V311))
			case *packet.Publish:
				for _, m := range spoil(count, p.Append(nil, packet.V311)) {
					_, _ = subscriber.Write(m)
				}
				count++
			}
			mu.Unlock()
		}
	}
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		work.Wait()
	})
	return l.Addr().String()
}

// However short the time, and however slow the broker, there is a rate.
func TestMeasuresUntilTheFirstDelivery(t *testing.T) {
	l := short(Loads()[0])
	l.Warmup, l.Duration = 0, time.Nanosecond
	target := Target{Dial: dialer(broker(t), false), Version: packet.V5, Prefix: "t"}
	r, err := target.Run(t.Context(), l)
	if err != nil || r.PerSecond <= 0 || r.Delay.P50 <= 0 {
		t.Errorf("result %+v, %v", r, err)
	}
}

func TestRefused(t *testing.T) {
	target := Target{Dial: dialer(broker(t), false), Version: packet.V5, Prefix: "closed"}
	_, err := target.Run(t.Context(), short(Loads()[0]))
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Code != packet.NotAuthorized {
		t.Errorf("got %v, want a refusal of SUBSCRIBE", err)
	}
}

// A broker that goes away ends the load with an error, at once.
func TestBrokerGone(t *testing.T) {
	for name, hide := range map[string]bool{"sockets": false, "streams": true} {
		t.Run(name, func(t *testing.T) {
			addr := crookedBroker(t, func(n int, m []byte) [][]byte {
				if n == 100 {
					return [][]byte{{0xff, 0xff}} // no packet
				}
				return [][]byte{m}
			})
			l := short(Loads()[0])
			l.Duration = time.Hour
			target := Target{Dial: dialer(addr, hide), Version: packet.V311, Prefix: "t"}
			if _, err := target.Run(t.Context(), l); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestWrongLoads(t *testing.T) {
	for name, change := range map[string]func(*Load){
		"no publishers": func(l *Load) { l.Publishers = 0 },
		"too small":     func(l *Load) { l.Size = 23 },
		"QoS 3":         func(l *Load) { l.QoS = 3 },
		"endless":       func(l *Load) { l.Duration = 0 },
		"one filter":    func(l *Load) { l.Filters = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			l := Loads()[0]
			change(&l)
			if err := l.Check(); err == nil {
				t.Error("not refused")
			}
		})
	}
	target := Target{PID: 1 << 29}
	if _, err := target.Run(t.Context(), Loads()[0]); err == nil {
		t.Error("no such process, not refused")
	}
}
