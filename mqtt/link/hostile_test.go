package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// impostor is a peer that speaks by hand on a stream it opened to a site.
type impostor struct {
	t    *testing.T
	conn net.Conn
	s    *stream
	done chan struct{} // closed when Handle has returned
}

const epoch = 0xabc

func (w *world) open(t *testing.T, to *site, from identity.ID) *impostor {
	t.Helper()
	near, far := net.Pipe()
	i := &impostor{t: t, conn: near, s: newStream(near, packet.MaxSize), done: make(chan struct{})}
	w.wg.Go(func() {
		to.links.Handle(w.ctx, from, far)
		close(i.done)
	})
	t.Cleanup(func() { near.Close() })
	return i
}

// rome adds a site without links to the directory and opens its stream to paris.
func rome(t *testing.T) (*site, *impostor) {
	t.Helper()
	w := newWorld(t, "paris")
	w.mu.Lock()
	w.extra = []Peer{{ID: nodeOf("rome"), Site: "rome"}}
	w.mu.Unlock()
	i := w.open(t, w.site("paris"), nodeOf("rome"))
	if _, err := i.s.greet(hello{site: "rome", epoch: epoch}); err != nil {
		t.Fatal(err)
	}
	return w.site("paris"), i
}

// publish returns the wire form of m with the stamp of site.
func wire(site string, epoch, seq uint64, id uint16, m *store.Message) []byte {
	s := stamper{site: site, epoch: epoch}
	p := s.publish(m, min(m.QoS, 1), laneLog, seq, time.Now())
	p.PacketID = id
	return p.Append(nil, packet.V5)
}

// puback returns the next PUBACK.
func (i *impostor) puback() packet.Puback {
	i.t.Helper()
	for {
		h, body, err := i.s.next()
		if err != nil {
			i.t.Fatal(err)
		}
		if h.Type != packet.TypePuback {
			continue
		}
		var ack packet.Puback
		if err := ack.Decode(packet.V5, h.Flags, body); err != nil {
			i.t.Fatal(err)
		}
		return ack
	}
}

func TestRefusedMessages(t *testing.T) {
	for _, tt := range []struct {
		name  string
		site  string
		epoch uint64
		topic string
		want  packet.ReasonCode
	}{
		{"own", "rome", epoch, "a", packet.Success},
		{"of this site", "paris", epoch, "a", packet.NotAuthorized},
		{"of a third site", "lyon", epoch, "a", packet.NotAuthorized},
		{"of another epoch", "rome", epoch + 1, "a", packet.NotAuthorized},
		{"system topic", "rome", epoch, "$SYS/broker/uptime", packet.TopicNameInvalid},
		{"too many levels", "rome", epoch, strings.Repeat("/", 300), packet.TopicNameInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				paris, i := rome(t)
				if err := i.s.write(wire(tt.site, tt.epoch, 1, 7, message(tt.topic, "x", 1))); err != nil {
					t.Fatal(err)
				}
				if ack := i.puback(); ack.PacketID != 7 || ack.ReasonCode != tt.want {
					t.Errorf("PUBACK %d %s, want 7 %s", ack.PacketID, ack.ReasonCode, tt.want)
				}
				refused := uint64(0)
				if tt.want.Failed() {
					refused = 1
				}
				if st := paris.to("rome"); st.Refused != refused || len(paris.received()) != int(1-refused) {
					t.Errorf("%+v, received %q", st, paris.texts())
				}
			})
		})
	}
}

// TestGapsDoNotFloodTheLog leaves a number out before each message.
func TestGapsDoNotFloodTheLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log, hook := logtest.NewNullLogger()
		w := newWorld(t)
		paris := w.add("paris", Options{Log: log})
		w.mu.Lock()
		w.extra = []Peer{{ID: nodeOf("rome"), Site: "rome"}}
		w.mu.Unlock()
		i := w.open(t, paris, nodeOf("rome"))
		if _, err := i.s.greet(hello{site: "rome", epoch: epoch}); err != nil {
			t.Fatal(err)
		}
		const messages = 100
		for n := range uint64(messages) {
			if err := i.s.write(wire("rome", epoch, 1+2*n, 1, message("a", "x", 1))); err != nil {
				t.Fatal(err)
			}
			i.puback()
		}
		if st := paris.to("rome"); st.Missing != messages-1 {
			t.Errorf("%d messages counted as missing, want %d", st.Missing, messages-1)
		}
		if n := len(hook.AllEntries()); n == 0 || n > messages/4 {
			t.Errorf("%d lines logged", n)
		}
	})
}

func TestAcceptRefuses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "lyon")
		paris := w.add("paris", Options{Accept: func(peer identity.ID, m *store.Message) error {
			if peer != nodeOf("lyon") {
				t.Errorf("asked about %s", peer)
			}
			if m.Topic == "secret" {
				return &packet.Error{Code: packet.NotAuthorized, Msg: "no grant"}
			}
			return nil
		}})
		paris.subscribe("#")
		synctest.Wait()
		w.site("lyon").publish(message("secret", "x", 1))
		w.site("lyon").publish(message("open", "y", 1))
		paris.expect(t, "open y")
		if st := w.site("lyon").to("paris"); st.Dropped != 1 || st.Queued != 0 {
			t.Errorf("stats of the sender %+v", st)
		}
	})
}

// TestUnsettledComesAgain: a message that is refused for want of news is not lost if
// the news comes. A message that never becomes allowed holds the link up once.
func TestUnsettledComesAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "lyon")
		var known atomic.Bool
		paris := w.add("paris", Options{Accept: func(_ identity.ID, m *store.Message) error {
			if m.Topic == "forged" || m.Topic == "early" && !known.Load() {
				return fmt.Errorf("no grant: %w", ErrUnsettled)
			}
			return nil
		}})
		lyon := w.site("lyon")
		paris.subscribe("#")
		synctest.Wait()
		for _, name := range []string{"before", "early", "after"} {
			lyon.publish(message(name, "x", 1))
		}
		pass(doubtTime/2 + doubtInterval/2)
		paris.expect(t, "before x")
		if st := lyon.to("paris"); !strings.Contains(st.Reason, "no grant") || st.Queued == 0 {
			t.Errorf("stats of the sender %+v", st)
		}
		known.Store(true)
		pass(2 * doubtInterval)
		paris.expect(t, "before x", "early x", "after x")

		pass(doubtPause + doubtTime)
		for range 3 {
			lyon.publish(message("forged", "x", 1))
		}
		lyon.publish(message("last", "x", 1))
		pass(doubtTime - time.Second)
		paris.expect(t, "before x", "early x", "after x")
		pass(2 * doubtInterval)
		paris.expect(t, "before x", "early x", "after x", "last x")
		if st := lyon.to("paris"); st.Dropped != 3 || st.Queued != 0 || !st.Up {
			t.Errorf("stats of the sender %+v", st)
		}
		lyon.publish(message("forged", "x", 0)) // QoS 0: no acknowledgement to wait for
		lyon.publish(message("forged", "x", 1))
		lyon.publish(message("open", "x", 1))
		paris.expect(t, "before x", "early x", "after x", "last x", "open x")
	})
}

func TestStreamsThatAreEnded(t *testing.T) {
	good := func(seq uint64, id uint16) []byte { return wire("rome", epoch, seq, id, message("a", "x", 1)) }
	plain := (&packet.Publish{QoS: 1, PacketID: 1, TopicName: []byte("a")}).Append(nil, packet.V5)

	for _, tt := range []struct {
		name string
		sent []byte
	}{
		{"garbage", bytes.Repeat([]byte{0xFF}, 100)},
		{"huge", []byte{0x32, 0xFF, 0xFF, 0xFF, 0x7F}},
		{"no stamp", plain},
		{"number 0", good(0, 1)},
		{"second CONNECT", (&packet.Connect{ClientID: "rome"}).Append(nil, packet.V5)},
		{"SUBSCRIBE", (&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{TopicFilter: "#"}}}).Append(nil, packet.V5)},
		{"both QoS bits", append([]byte{0x36}, good(1, 1)[1:]...)},
		{"QoS 2", append([]byte{0x34}, good(1, 1)[1:]...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				paris, i := rome(t)
				if err := i.s.write(tt.sent); err != nil && len(tt.sent) < 64 {
					t.Fatal(err)
				}
				synctest.Wait()
				select {
				case <-i.done:
				default:
					t.Error("the stream goes on")
				}
				if got := paris.texts(); len(got) > 0 {
					t.Errorf("received %q", got)
				}
				if !paris.to("rome").Receiving {
					return
				}
				t.Error("the slot is still taken")
			})
		})
	}
}

func TestReceiveMaximumHolds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		paris := w.add("paris", Options{ReceiveMaximum: 10})
		paris.mu.Lock()
		paris.hold = true
		paris.mu.Unlock()
		w.mu.Lock()
		w.extra = []Peer{{ID: nodeOf("rome"), Site: "rome"}}
		w.mu.Unlock()
		i := w.open(t, paris, nodeOf("rome"))
		if _, err := i.s.greet(hello{site: "rome", epoch: epoch}); err != nil {
			t.Fatal(err)
		}
		var err error
		for n := uint16(1); n < 100 && err == nil; n++ {
			err = i.s.write(wire("rome", epoch, uint64(n), n, message("a", "x", 1)))
		}
		synctest.Wait()
		paris.mu.Lock()
		held := len(paris.held)
		paris.mu.Unlock()
		if err == nil || held != 10 {
			t.Errorf("%d in flight, error %v", held, err)
		}
		// The slot is free only once the store has answered for all of them.
		j := w.open(t, paris, nodeOf("rome"))
		if _, err := j.s.greet(hello{site: "rome", epoch: epoch}); err == nil {
			t.Error("a second stream began while the store had messages of the first")
		}
		paris.letGo()
		k := w.open(t, paris, nodeOf("rome"))
		if _, err := k.s.greet(hello{site: "rome", epoch: epoch}); err != nil {
			t.Error(err)
		}
		if err := k.s.write(wire("rome", epoch, 10, 1, message("a", "x", 1))); err != nil {
			t.Fatal(err)
		}
		if k.puback(); len(paris.received()) != 10 || paris.to("rome").Duplicates != 1 {
			t.Errorf("%d received, %+v", len(paris.received()), paris.to("rome"))
		}
	})
}

// TestForgedOrigin: a site cannot use another one's numbers, or the other's own
// messages would pass for duplicates.
func TestForgedOrigin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		paris, rome := rome(t)
		for id, forged := range [][]byte{
			wire("lyon", epoch, 1000, 1, message("a", "x", 1)),
			wire("rome", epoch+1, 1000, 2, message("a", "x", 1)),
			wire("rome", epoch, 1, 3, message("$SYS/broker/uptime", "x", 1)),
		} {
			if err := rome.s.write(forged); err != nil {
				t.Fatal(err)
			}
			if ack := rome.puback(); ack.PacketID != uint16(id+1) || !ack.ReasonCode.Failed() {
				t.Errorf("acknowledged with %+v", ack)
			}
		}
		paris.expect(t)
		for _, site := range []string{"lyon", "rome"} {
			if epoch, seq := paris.store.Floor(site, laneLog); epoch != 0 || seq != 0 {
				t.Errorf("floor of %s is %d of epoch %d", site, seq, epoch)
			}
		}
	})
}

func TestRefusedStreams(t *testing.T) {
	for _, tt := range []struct {
		name, node, claims string
		epoch              uint64
	}{
		{"stranger", "oslo", "oslo", epoch},
		{"another site's name", "rome", "lyon", epoch},
		{"own site's node", "paris", "paris", epoch},
		{"no epoch", "rome", "rome", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, "paris")
				w.mu.Lock()
				w.extra = []Peer{{ID: nodeOf("rome"), Site: "rome"}}
				w.mu.Unlock()
				i := w.open(t, w.site("paris"), nodeOf(tt.node))
				_, err := i.s.greet(hello{site: tt.claims, epoch: tt.epoch})
				if err == nil || !strings.Contains(err.Error(), "refused") && tt.name != "stranger" && tt.name != "own site's node" {
					t.Errorf("greeted with %v", err)
				}
			})
		})
	}
}

// acceptor is a dialer with an other end that answers CONNECT by hand.
func acceptor(t *testing.T, w *world, serve func(s *stream)) *Links {
	t.Helper()
	l := New(Options{
		Site: "paris", Store: store.NewMemory(store.Limits{}),
		Peers:   func() []Peer { return []Peer{{ID: nodeOf("rome"), Site: "rome"}} },
		Changed: w.change,
		Dialer: dialFunc(func() net.Conn {
			near, far := net.Pipe()
			w.wg.Go(func() {
				defer far.Close()
				s := newStream(far, packet.MaxSize)
				if _, err := s.await("paris"); err == nil {
					serve(s)
				}
			})
			return near
		}),
	})
	w.wg.Go(func() {
		if err := l.Run(w.ctx, &site{w: w}); err != nil {
			t.Error(err)
		}
	})
	return l
}

type dialFunc func() net.Conn

func (f dialFunc) Open(context.Context, identity.ID) (net.Conn, error) { return f(), nil }

func TestHostileAcceptor(t *testing.T) {
	filter := func(f string) []byte {
		return (&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{TopicFilter: f, QoS: 1}}}).Append(nil, packet.V5)
	}
	for _, tt := range []struct {
		name   string
		sent   []byte
		reason string
	}{
		{"PUBACK of nothing", (&packet.Puback{PacketID: 9}).Append(nil, packet.V5), "not in flight"},
		{"PUBLISH", wire("rome", epoch, 1, 1, message("a", "x", 1)), "PUBLISH from"},
		{"garbage", []byte{0, 0, 0}, "forbidden"},
		{"large", []byte{0x82, 0xFF, 0xFF, 0x7F}, "exceeds"},
		{"system filter", filter("$SYS/#"), ""},
		{"bad filter", filter("a/#/b"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				l := acceptor(t, w, func(s *stream) {
					if s.accept(terms{receiveMaximum: 1, packetSize: 1000}) == nil && s.write(tt.sent) == nil {
						for {
							if _, _, err := s.next(); err != nil {
								return
							}
						}
					}
				})
				synctest.Wait()
				st := l.Stats()[0]
				if st.Up != (tt.reason == "") || !strings.Contains(st.Reason, tt.reason) || st.Interest != 0 {
					t.Errorf("stats %+v, want reason %q", st, tt.reason)
				}
			})
		})
	}
}

func TestMutatedStreams(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		bubble(t, func(t *testing.T) {
			_, i := rome(t)
			var b []byte
			for n := uint16(1); n < 6; n++ {
				b = append(b, wire("rome", epoch, uint64(n), n, message("a/b", "payload", byte(n%2)))...)
			}
			for range 1 + rnd.IntN(4) {
				b[rnd.IntN(len(b))] = byte(rnd.Uint32())
			}
			w := make(chan struct{})
			go func() {
				defer close(w)
				_ = i.s.write(b) // it may be cut off at any byte
				i.conn.Close()
			}()
			for {
				if _, _, err := i.s.next(); err != nil {
					break
				}
			}
			<-w
		})
	}
}

func FuzzStamp(f *testing.F) {
	m := message("a/b", "payload", 1)
	m.Props.User = []packet.UserProperty{{Key: "o", Value: "x.1.0.1"}}
	f.Add(wire("rome", epoch, 3, 1, m)[2:], byte(2))
	f.Add(wire("ro.me", 1<<63, 0, 1, message("a", "", 0))[2:], byte(0))
	f.Add([]byte("\x00\x01a\x00\x01\x05\x26\x00\x01o\x00\x00"), byte(2))
	f.Add(binary.BigEndian.AppendUint64(nil, 7), byte(1))
	f.Fuzz(func(t *testing.T, body []byte, flags byte) {
		var p packet.Publish
		if p.Decode(packet.V5, flags&15, body) != nil {
			return
		}
		now := time.Unix(1e9, 0)
		m, err := parse(&p, now)
		if err != nil {
			return
		}
		s := stamper{site: m.Origin.Site, epoch: m.Origin.Epoch}
		q := s.publish(m, p.QoS, m.Origin.Lane, m.Origin.Seq, now)
		again, err := parse(q, now)
		if err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		if !bytes.Equal(q.Append(nil, packet.V5), s.publish(again, p.QoS, again.Origin.Lane, again.Origin.Seq, now).Append(nil, packet.V5)) {
			t.Errorf("%+v became %+v", m, again)
		}
	})
}
