package link

import (
	"errors"
	"fmt"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// read handles the peer's answers and its changes of interest until the stream ends. It
// always returns an error.
func (s *sender) read() error {
	if s.picture == 0 {
		if err := s.completePicture(); err != nil {
			return err
		}
	}
	acked := false
	for {
		if acked && !s.stream.pending() {
			s.collect()
			acked = false
		}
		h, body, err := s.stream.next()
		if err != nil {
			return err
		}
		switch h.Type { //nolint:exhaustive // other packet types do not belong here
		case packet.TypePuback:
			acked = true
			err = s.puback(h, body)
		case packet.TypeSubscribe:
			err = s.subscribe(h, body)
		case packet.TypeUnsubscribe:
			err = s.unsubscribe(h, body)
		case packet.TypePingreq:
			err = s.answer(&packet.Pingresp{})
		case packet.TypePingresp:
		case packet.TypeDisconnect:
			err = disconnected(h, body)
		default:
			err = fmt.Errorf("%s from the accepting end", h.Type)
		}
		if err != nil {
			return err
		}
	}
}

func (s *sender) puback(h packet.Header, body []byte) error {
	var ack packet.Puback
	if err := ack.Decode(packet.V5, h.Flags, body); err != nil {
		return err
	}
	s.mu.Lock()
	ok := s.window.ack(ack.PacketID)
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("PUBACK for packet identifier %d, which is not in flight", ack.PacketID)
	}
	s.p.count.acked.Add(1)
	if ack.ReasonCode.Failed() {
		s.refused(ack.ReasonCode, ack.Properties.ReasonString)
	}
	return nil
}

func (s *sender) subscribe(h packet.Header, body []byte) error {
	var sub packet.Subscribe
	if err := sub.Decode(packet.V5, h.Flags, body); err != nil {
		return err
	}
	ack := &packet.Suback{PacketID: sub.PacketID}
	inPicture := s.picture > 0
	var news []string
	for i := range sub.Subscriptions {
		f := sub.Subscriptions[i].TopicFilter
		code := checkFilter(f)
		ack.ReasonCodes = append(ack.ReasonCodes, code)
		if s.picture > 0 {
			s.picture--
			if !code.Failed() && len(s.filters) <= maxInterest && s.filtersSize <= maxInterestSize {
				s.filters = append(s.filters, f)
				s.filtersSize += filterSize(f)
			}
			if s.picture == 0 {
				if err := s.completePicture(); err != nil {
					return err
				}
			}
		} else if !code.Failed() {
			news = append(news, f)
		}
	}
	if inPicture && len(news) == 0 {
		return s.answer(ack)
	}
	return s.changeInterest(change{kind: added, filters: news, answer: ack})
}

// completePicture hands the picture of the peer's interest to the keeper.
func (s *sender) completePicture() error {
	filters := s.filters
	s.filters = nil
	return s.changeInterest(change{kind: picture, filters: filters})
}

func (s *sender) unsubscribe(h packet.Header, body []byte) error {
	var unsub packet.Unsubscribe
	if err := unsub.Decode(packet.V5, h.Flags, body); err != nil {
		return err
	}
	if s.picture > 0 {
		return errors.New("UNSUBSCRIBE inside the first picture")
	}
	return s.changeInterest(change{kind: removed, filters: unsub.TopicFilters, answer: &packet.Unsuback{
		PacketID: unsub.PacketID, ReasonCodes: make([]packet.ReasonCode, len(unsub.TopicFilters)),
	}})
}

// answer queues a packet for the writer.
func (s *sender) answer(p packet.Packet) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.control) > maxControl {
		return errors.New("peer does not read what it asks for")
	}
	s.control = p.Append(s.control, packet.V5)
	s.p.wake.Wake()
	return nil
}

// disconnected is the error of a stream that the other end gave up.
func disconnected(h packet.Header, body []byte) error {
	var d packet.Disconnect
	if err := d.Decode(packet.V5, h.Flags, body); err != nil {
		return err
	}
	return fmt.Errorf("disconnected: %s %s", d.ReasonCode, d.Properties.ReasonString)
}
