package bench

import (
	"fmt"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// publisher is one publishing connection.
type publisher struct {
	r      *run
	c      *conn
	index  uint32
	routes []route
	dice   uint64 // picks a route, when there are many

	sent    uint64   // messages, and so the next sequence number
	pending int      // unacknowledged
	free    []uint16 // identifiers not in use, QoS 1 and 2
	bound   bool     // free counts

	// Flow control, in deliveries.
	expected, seen, forgiven uint64
	fan                      uint64 // deliveries of a message, at most

	window uint64 // in messages
	burst  uint64 // publish only when this many fit
	due    int64  // of the next message, with a rate
}

func (r *run) addPublisher(routes []route, window int) {
	p := &publisher{
		r: r, index: uint32(len(r.publishers)), routes: routes,
		window: uint64(max(window, 1)), fan: 1, bound: r.load.QoS > 0,
		dice: uint64(len(r.publishers))*7919 + 12345,
	}
	for _, to := range routes {
		p.fan = max(p.fan, to.subscribers)
	}
	r.publishers = append(r.publishers, p)
}

// attach gives p its connection.
func (p *publisher) attach(c *conn) {
	p.c = c
	limit := p.window
	if p.bound {
		inflight := min(p.r.load.Inflight, c.receiveMaximum)
		for id := inflight; id > 0; id-- {
			p.free = append(p.free, uint16(id))
		}
		limit = min(limit, uint64(inflight))
	}
	p.burst = max(1, limit/2)
	if p.r.load.Batch > 0 {
		p.burst = min(p.burst, uint64(p.r.load.Batch))
	}
}

func (p *publisher) outstanding() uint64 {
	if done := p.seen + p.forgiven; done < p.expected {
		return p.expected - done
	}
	return 0
}

// room is how many messages may go out now.
func (p *publisher) room() uint64 {
	used := (p.outstanding() + p.fan - 1) / p.fan
	if p.c.blocked || used >= p.window {
		return 0
	}
	if p.bound {
		return min(p.window-used, uint64(len(p.free)))
	}
	return p.window - used
}

// publish appends n messages that count from at, and writes them at once where
// the load wants small writes.
func (p *publisher) publish(n uint64, at int64) error {
	batch := uint64(p.r.load.Batch)
	for ; n > 0 && !p.c.blocked; n-- {
		p.append(at)
		if batch > 0 && p.sent%batch == 0 {
			if err := p.r.loop.flush(p.c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *publisher) append(at int64) {
	to := &p.routes[0]
	if len(p.routes) > 1 {
		p.dice = p.dice*6364136223846793005 + 1442695040888963407 // Knuth's MMIX generator
		to = &p.routes[(p.dice>>33)%uint64(len(p.routes))]
	}
	var id uint16
	if p.bound {
		id = p.free[len(p.free)-1]
		p.free = p.free[:len(p.free)-1]
		p.pending++
	}
	p.c.out = to.append(p.c.out, id, mark{p.index, p.sent, at})
	p.sent++
	p.expected += to.subscribers
	p.c.touch()
}

// handle takes the broker's acknowledgements.
func (p *publisher) handle(h packet.Header, body []byte) error {
	v := p.r.target.Version
	switch h.Type { //nolint:exhaustive // the rest is not for it
	case packet.TypePuback:
		var ack packet.Puback
		if err := ack.Decode(v, h.Flags, body); err != nil {
			return err
		}
		p.release(ack.PacketID, ack.ReasonCode)
	case packet.TypePubrec:
		var ack packet.Pubrec
		if err := ack.Decode(v, h.Flags, body); err != nil {
			return err
		}
		if ack.ReasonCode.Failed() {
			p.release(ack.PacketID, ack.ReasonCode)
			return nil
		}
		p.c.out = (&packet.Pubrel{PacketID: ack.PacketID}).Append(p.c.out, v)
		p.c.touch()
	case packet.TypePubcomp:
		var ack packet.Pubcomp
		if err := ack.Decode(v, h.Flags, body); err != nil {
			return err
		}
		p.release(ack.PacketID, ack.ReasonCode)
	default:
		return unexpected(v, h, body, "a publisher")
	}
	return nil
}

func (p *publisher) release(id uint16, code packet.ReasonCode) {
	p.pending--
	p.free = append(p.free, id)
	if code.Failed() {
		p.r.result.Refused++
		p.r.refusal = code
		return
	}
	p.r.result.Acknowledged++
}

// unexpected explains a packet that ends the load.
func unexpected(v packet.Version, h packet.Header, body []byte, who string) error {
	p, err := packet.Decode(v, h, body)
	if err != nil {
		return fmt.Errorf("the broker sent %s what is no packet: %w", who, err)
	}
	if d, ok := p.(*packet.Disconnect); ok {
		return &RefusedError{What: who + "'s connection", Code: d.ReasonCode, Reason: d.Properties.ReasonString}
	}
	return fmt.Errorf("the broker sent %s an unexpected %v", who, h.Type)
}
