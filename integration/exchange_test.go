package integration

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/eclipse/paho.golang/packets"
)

// faults collects what goroutines find wrong.
type faults struct {
	mu  sync.Mutex
	all []string
}

func (f *faults) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) < 20 {
		f.all = append(f.all, fmt.Sprintf(format, args...))
	}
}

func (f *faults) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) == 0 {
		return nil
	}
	return fmt.Errorf("%d faults:\n%s", len(f.all), strings.Join(f.all, "\n"))
}

// publisher numbers its messages and keeps its side of the exchanges over the
// connection's end, as the specification asks of a client. Acknowledgements must
// come in the order of the messages.
type publisher struct {
	name    string
	qos     byte
	window  int
	message func(seq uint64) *packets.Publish // topic, payload and retain flag
	acks    *atomic.Int64                     // of all publishers
	faults  *faults

	mu       sync.Mutex
	sent     uint64          // the last number given away
	acked    uint64          // all up to it are acknowledged
	flight   []flight        // oldest first
	free     []uint16        // identifiers; the one that was let go last is used first
	repeated map[uint64]bool // what was sent more than once
	last     bool            // nothing new is sent any more
}

// flight is one message whose exchange is not over.
type flight struct {
	seq      uint64
	id       uint16
	received bool // PUBREC came: only PUBREL is due
}

func (p *publisher) init() {
	p.repeated = make(map[uint64]bool)
	for id := range uint16(p.window) {
		p.free = append(p.free, id+1)
	}
}

// inFlight counts the messages that were sent and are not acknowledged.
func (p *publisher) inFlight() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, f := range p.flight {
		if !f.received {
			n++
		}
	}
	return n
}

// run publishes on c, after what an earlier connection left unfinished, until
// the connection ends or, with last set, until all is acknowledged.
func (p *publisher) run(c *wire) {
	defer c.Close()
	p.mu.Lock()
	err := p.resume(c)
	p.mu.Unlock()
	for err == nil {
		p.mu.Lock()
		err = p.fill(c)
		over := p.last && len(p.flight) == 0
		p.mu.Unlock()
		if over {
			_ = c.send(&packets.Disconnect{Properties: &packets.Properties{}}) // nothing is lost with it
			return
		}
		if err != nil {
			return
		}
		var got *packets.ControlPacket
		if got, err = c.next(); err == nil {
			p.mu.Lock()
			err = p.take(c, got)
			p.mu.Unlock()
		}
	}
}

// resume repeats what is unfinished, in order.
func (p *publisher) resume(c *wire) error {
	for _, f := range p.flight {
		if f.received {
			if err := c.put(&packets.Pubrel{PacketID: f.id, Properties: &packets.Properties{}}); err != nil {
				return err
			}
			continue
		}
		p.repeated[f.seq] = true
		if err := c.put(p.packet(f, true)); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) packet(f flight, again bool) *packets.Publish {
	m := p.message(f.seq)
	m.QoS, m.PacketID, m.Duplicate, m.Properties = p.qos, f.id, again, &packets.Properties{}
	return m
}

// fill sends new messages up to the window.
func (p *publisher) fill(c *wire) error {
	for !p.last && len(p.free) > 0 {
		f := flight{seq: p.sent + 1, id: p.free[len(p.free)-1]}
		p.free = p.free[:len(p.free)-1]
		p.sent++
		p.flight = append(p.flight, f)
		if err := c.put(p.packet(f, false)); err != nil {
			return err
		}
	}
	return nil
}

// take handles an answer.
func (p *publisher) take(c *wire, got *packets.ControlPacket) error {
	switch a := got.Content.(type) {
	case *packets.Puback:
		p.acknowledged(a.PacketID, a.ReasonCode)
		p.finished(a.PacketID)
	case *packets.Pubrec:
		p.acknowledged(a.PacketID, a.ReasonCode)
		return c.put(&packets.Pubrel{PacketID: a.PacketID, Properties: &packets.Properties{}})
	case *packets.Pubcomp:
		p.finished(a.PacketID)
	default:
		p.faults.add("%s received %v", p.name, got)
	}
	return nil
}

// acknowledged notes PUBACK or PUBREC, which must be for the oldest message
// without one.
func (p *publisher) acknowledged(id uint16, code byte) {
	for i := range p.flight {
		f := &p.flight[i]
		if f.received {
			continue
		}
		if f.id != id || f.seq != p.acked+1 || code >= 0x80 {
			p.faults.add("%s: acknowledgement of packet %d with code %#x, message %d (packet %d) is next", p.name, id, code, f.seq, f.id)
		}
		f.received = true
		p.acked = f.seq
		p.acks.Add(1)
		return
	}
	p.faults.add("%s: acknowledgement of packet %d, and none is due", p.name, id)
}

func (p *publisher) finished(id uint16) {
	for i, f := range p.flight {
		if f.id == id && f.received {
			p.flight = append(p.flight[:i], p.flight[i+1:]...)
			p.free = append(p.free, id)
			return
		}
	}
	p.faults.add("%s: the exchange of packet %d ends, and there is none", p.name, id)
}

func (p *publisher) wasRepeated(seq uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.repeated[seq]
}

// receiver keeps a subscriber's side of the exchanges over the connection's end,
// and checks what it is sent: of each publisher everything, in order, and again
// only what QoS 1 allows to come again.
type receiver struct {
	name    string
	qos     byte
	leaves  bool                  // it disconnects after a mark
	sources map[string]*publisher // by topic
	faults  *faults
	marked  chan string // gets each mark's payload

	open  map[uint16]bool   // QoS 2 messages taken, before PUBREL
	last  map[string]uint64 // by topic: all up to it came
	wills map[string]int    // by payload

	// What came on a connection that was cut may come again on the next one:
	// what is after from, where that connection began, up to to, where it ended.
	began, from, to map[string]uint64
	duplicates      int
}

func (r *receiver) init() {
	r.open, r.wills = make(map[uint16]bool), make(map[string]int)
	r.last, r.began = make(map[string]uint64), make(map[string]uint64)
	r.from, r.to = make(map[string]uint64), make(map[string]uint64)
	r.marked = make(chan string, 1)
}

// run takes messages until the connection ends. cut tells that the one before
// did not end by itself.
func (r *receiver) run(c *wire, cut bool) {
	defer c.Close()
	for topic := range r.sources {
		r.from[topic], r.to[topic] = r.last[topic], r.last[topic]
		if cut {
			r.from[topic] = r.began[topic]
		}
		r.began[topic] = r.last[topic]
	}
	mark := ""
	for {
		got, err := c.next()
		if err != nil {
			return
		}
		switch a := got.Content.(type) {
		case *packets.Publish:
			if a.Topic == markTopic {
				mark = string(a.Payload)
			}
			if err := r.take(c, a); err != nil {
				return
			}
		case *packets.Pubrel:
			delete(r.open, a.PacketID)
			if err := c.put(&packets.Pubcomp{PacketID: a.PacketID, Properties: &packets.Properties{}}); err != nil {
				return
			}
		default:
			r.faults.add("%s received %v", r.name, got)
		}
		if mark == "" || len(r.open) > 0 && r.leaves {
			continue
		}
		if r.leaves {
			_ = c.send(&packets.Disconnect{Properties: &packets.Properties{}})
		}
		r.marked <- mark
		if mark = ""; r.leaves {
			return
		}
	}
}

// take acknowledges a message and notes it, once if it is of QoS 2.
func (r *receiver) take(c *wire, m *packets.Publish) error {
	switch m.QoS {
	case 1:
		r.note(m)
		return c.put(&packets.Puback{PacketID: m.PacketID, Properties: &packets.Properties{}})
	case 2:
		if !r.open[m.PacketID] {
			r.open[m.PacketID] = true
			r.note(m)
		}
		return c.put(&packets.Pubrec{PacketID: m.PacketID, Properties: &packets.Properties{}})
	}
	return nil
}

func (r *receiver) note(m *packets.Publish) {
	p := r.sources[m.Topic]
	if p == nil {
		if m.Topic == willTopic {
			r.wills[string(m.Payload)]++
		}
		return
	}
	seq, err := strconv.ParseUint(string(m.Payload), 10, 64)
	last := r.last[m.Topic]
	switch {
	case err != nil:
		r.faults.add("%s: %s holds %q", r.name, m.Topic, m.Payload)
	case seq == last+1:
		r.last[m.Topic] = seq
	case seq > last:
		r.faults.add("%s: %s has %d after %d: lost or out of order", r.name, m.Topic, seq, last)
		r.last[m.Topic] = seq
	case m.QoS == 2:
		r.faults.add("%s: %s has %d again, of QoS 2", r.name, m.Topic, seq)
	case p.qos == 1 && p.wasRepeated(seq):
		r.duplicates++
	case seq > r.from[m.Topic] && seq <= r.to[m.Topic]:
		r.duplicates++
		r.began[m.Topic] = min(r.began[m.Topic], seq-1) // not confirmed until now
	default:
		r.faults.add("%s: %s has %d again (after %d), which nobody repeated", r.name, m.Topic, seq, last)
	}
}

// holds checks that everything acknowledged came.
func (r *receiver) holds() {
	for topic, p := range r.sources {
		p.mu.Lock()
		acked, sent := p.acked, p.sent
		p.mu.Unlock()
		if got := r.last[topic]; got < acked || got > sent {
			r.faults.add("%s has %s up to %d; acknowledged is %d, sent is %d", r.name, topic, got, acked, sent)
		}
	}
}
