package bench

import (
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// subscriber is one subscribing connection.
type subscriber struct {
	r       *run
	c       *conn
	streams []*stream // by publisher; nil until it is heard of
	message packet.Publish
	held    []uint64 // bits of the identifiers between PUBREC and PUBREL, QoS 2
}

func (r *run) newSubscriber() *subscriber {
	s := &subscriber{r: r, streams: make([]*stream, len(r.publishers))}
	if r.load.QoS == 2 {
		s.held = make([]uint64, 1<<16/64)
	}
	return s
}

// handle takes messages, and the PUBREL that releases one of QoS 2.
func (s *subscriber) handle(h packet.Header, body []byte) error {
	v := s.r.target.Version
	switch h.Type { //nolint:exhaustive // the rest is not for it
	case packet.TypePublish:
		if err := s.message.Decode(v, h.Flags, body); err != nil {
			return err
		}
		s.receive(v)
	case packet.TypePubrel:
		var rel packet.Pubrel
		if err := rel.Decode(v, h.Flags, body); err != nil {
			return err
		}
		if s.held != nil {
			s.held[rel.PacketID/64] &^= 1 << (rel.PacketID % 64)
		}
		s.c.out = (&packet.Pubcomp{PacketID: rel.PacketID}).Append(s.c.out, v)
		s.c.touch()
	default:
		return unexpected(v, h, body, "a subscriber")
	}
	return nil
}

func (s *subscriber) receive(v packet.Version) {
	m := &s.message
	switch m.QoS {
	case 1:
		s.c.out = (&packet.Puback{PacketID: m.PacketID}).Append(s.c.out, v)
		s.c.touch()
	case 2:
		s.c.out = (&packet.Pubrec{PacketID: m.PacketID}).Append(s.c.out, v)
		s.c.touch()
		if s.held != nil {
			word, bit := &s.held[m.PacketID/64], uint64(1)<<(m.PacketID%64)
			if *word&bit != 0 {
				return // repeated before PUBREL: the same delivery
			}
			*word |= bit
		}
	}
	got, ok := readMark(m.Payload, s.r.load.Size)
	if !ok || m.QoS != s.r.load.QoS || int(got.publisher) >= len(s.streams) {
		s.r.result.Corrupt++
		return
	}
	s.r.arrived(s, got)
}

// arrived counts a delivery.
func (r *run) arrived(s *subscriber, got mark) {
	p := r.publishers[got.publisher]
	seen := s.streams[got.publisher]
	if seen == nil {
		seen = newStream(int(p.window))
		s.streams[got.publisher] = seen
	}
	v, advance := seen.take(got.seq)
	switch v {
	case repeated:
		r.result.Duplicated++
		return
	case reordered:
		r.result.Reordered++
	case inOrder:
	}
	if r.load.Filters > 0 {
		advance = 1 // a subscriber gets only some of a publisher's messages
	}
	p.seen += advance // a skipped message is no longer on its way
	r.delivered++
	r.delays.add(time.Duration(r.now() - got.at))
}
