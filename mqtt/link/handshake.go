package link

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// The user properties of CONNECT and CONNACK.
const (
	propEpoch   = "epoch"   // of the side that says it: of its store, in hexadecimal
	propAcked   = "acked"   // the last number that the opener need not send, whichever node of the site took it
	propSkips   = "skips"   // the acceptor reads how many numbers were left out; see stampQoS
	propFilters = "filters" // how many topic filters follow as the whole picture
)

// The largest packets that carry no message.
const (
	handshakeLimit = 4 << 10
	interestLimit  = 128 << 10
)

// terms are the contents of the acceptor's CONNACK.
type terms struct {
	receiveMaximum uint16
	packetSize     int
	filters        int
	epoch          uint64 // of the acceptor's store; 0 is unknown
	skips          bool   // the acceptor knows of numbers that are left out
}

// hello is the contents of the opener's CONNECT.
type hello struct {
	site  string
	epoch uint64
	acked uint64 // see propAcked
	told  bool   // acked is known: older versions do not tell it
}

// greet opens the protocol on a stream that this site opened.
func (s *stream) greet(o hello) (terms, error) {
	c := packet.Connect{CleanStart: true, ClientID: o.site, KeepAlive: uint16(deadAfter / time.Second)}
	c.Properties.User = []packet.UserProperty{{Key: propEpoch, Value: strconv.FormatUint(o.epoch, 16)}}
	if o.told {
		c.Properties.User = append(c.Properties.User, packet.UserProperty{Key: propAcked, Value: strconv.FormatUint(o.acked, 10)})
	}
	if err := s.write(c.Append(nil, packet.V5)); err != nil {
		return terms{}, err
	}
	h, body, err := s.next()
	if err != nil {
		return terms{}, err
	}
	var ack packet.Connack
	if h.Type != packet.TypeConnack {
		return terms{}, fmt.Errorf("%s in answer to CONNECT", h.Type)
	}
	if err := ack.Decode(packet.V5, h.Flags, body); err != nil {
		return terms{}, err
	}
	if ack.ReasonCode.Failed() {
		return terms{}, fmt.Errorf("refused: %s %s", ack.ReasonCode, ack.Properties.ReasonString)
	}
	t := terms{receiveMaximum: 1<<16 - 1, packetSize: packet.MaxSize}
	if ack.Properties.Has(packet.PropReceiveMaximum) {
		t.receiveMaximum = ack.Properties.ReceiveMaximum
	}
	if ack.Properties.Has(packet.PropMaximumPacketSize) {
		t.packetSize = int(ack.Properties.MaximumPacketSize)
	}
	if t.filters, err = strconv.Atoi(userProperty(&ack.Properties, propFilters)); err != nil || t.filters < 0 {
		return terms{}, errors.New("CONNACK without the number of filters")
	}
	if t.epoch, err = strconv.ParseUint(userProperty(&ack.Properties, propEpoch), 16, 64); err != nil {
		t.epoch = 0 // an older version
	}
	t.skips = userProperty(&ack.Properties, propSkips) != ""
	return t, nil
}

// await reads the CONNECT of a stream that the site opened.
func (s *stream) await(site string) (o hello, err error) {
	h, body, err := s.next()
	if err != nil {
		return o, err
	}
	if h.Type != packet.TypeConnect {
		return o, fmt.Errorf("%s instead of CONNECT", h.Type)
	}
	var c packet.Connect
	if err := c.Decode(packet.V5, h.Flags, body); err != nil {
		return o, err
	}
	if c.Version != packet.V5 {
		return o, &packet.Error{Code: packet.UnsupportedProtocolVersion, Msg: "a link is MQTT 5"}
	}
	if c.ClientID != site {
		return o, &packet.Error{
			Code: packet.ClientIdentifierNotValid,
			Msg:  fmt.Sprintf("calls itself %.64q, and the directory says %q", c.ClientID, site),
		}
	}
	o.site = site
	o.epoch, err = strconv.ParseUint(userProperty(&c.Properties, propEpoch), 16, 64)
	if err != nil || o.epoch == 0 {
		return o, &packet.Error{Code: packet.ProtocolError, Msg: "CONNECT without an epoch"}
	}
	o.acked, err = strconv.ParseUint(userProperty(&c.Properties, propAcked), 10, 64)
	o.told = err == nil
	return o, nil
}

// accept answers CONNECT.
func (s *stream) accept(t terms) error {
	var ack packet.Connack
	ack.Properties.SetReceiveMaximum(t.receiveMaximum)
	ack.Properties.SetMaximumPacketSize(uint32(t.packetSize))
	ack.Properties.User = []packet.UserProperty{
		{Key: propFilters, Value: strconv.Itoa(t.filters)},
		{Key: propEpoch, Value: strconv.FormatUint(t.epoch, 16)},
		{Key: propSkips, Value: "1"},
	}
	return s.write(ack.Append(nil, packet.V5))
}

// refuse answers CONNECT with the reason in err. The peer may no longer be reading.
func (s *stream) refuse(err error) {
	ack := packet.Connack{ReasonCode: reasonOf(err)}
	ack.Properties.SetReasonString(err.Error())
	_ = s.write(ack.Append(nil, packet.V5))
}

// reasonOf returns the Reason Code for an error in the peer's packets.
func reasonOf(err error) packet.ReasonCode {
	if e, ok := errors.AsType[*packet.Error](err); ok {
		return e.Code
	}
	return packet.ProtocolError
}

// userProperty returns the value of the first user property of that name.
func userProperty(p *packet.Properties, key string) string {
	for _, u := range p.User {
		if u.Key == key {
			return u.Value
		}
	}
	return ""
}
