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
	propFilters = "filters" // how many topic filters follow as the whole picture
)

// The largest packets of those that are no message.
const (
	handshakeLimit = 4 << 10
	interestLimit  = 128 << 10
)

// terms are what CONNACK tells the opener.
type terms struct {
	receiveMaximum uint16
	packetSize     int
	filters        int
	epoch          uint64 // of the acceptor's store; 0 is unknown
}

// greet opens the protocol on a stream that this site opened.
func (s *stream) greet(site string, epoch uint64) (terms, error) {
	c := packet.Connect{CleanStart: true, ClientID: site, KeepAlive: uint16(deadAfter / time.Second)}
	c.Properties.User = []packet.UserProperty{{Key: propEpoch, Value: strconv.FormatUint(epoch, 16)}}
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
	return t, nil
}

// await reads the CONNECT of a stream that the site opened, and returns its
// epoch.
func (s *stream) await(site string) (epoch uint64, err error) {
	h, body, err := s.next()
	if err != nil {
		return 0, err
	}
	if h.Type != packet.TypeConnect {
		return 0, fmt.Errorf("%s instead of CONNECT", h.Type)
	}
	var c packet.Connect
	if err := c.Decode(packet.V5, h.Flags, body); err != nil {
		return 0, err
	}
	if c.Version != packet.V5 {
		return 0, &packet.Error{Code: packet.UnsupportedProtocolVersion, Msg: "a link is MQTT 5"}
	}
	if c.ClientID != site {
		return 0, &packet.Error{
			Code: packet.ClientIdentifierNotValid,
			Msg:  fmt.Sprintf("calls itself %.64q, and the directory says %q", c.ClientID, site),
		}
	}
	epoch, err = strconv.ParseUint(userProperty(&c.Properties, propEpoch), 16, 64)
	if err != nil || epoch == 0 {
		return 0, &packet.Error{Code: packet.ProtocolError, Msg: "CONNECT without an epoch"}
	}
	return epoch, nil
}

// accept answers CONNECT.
func (s *stream) accept(t terms) error {
	var ack packet.Connack
	ack.Properties.SetReceiveMaximum(t.receiveMaximum)
	ack.Properties.SetMaximumPacketSize(uint32(t.packetSize))
	ack.Properties.User = []packet.UserProperty{
		{Key: propFilters, Value: strconv.Itoa(t.filters)},
		{Key: propEpoch, Value: strconv.FormatUint(t.epoch, 16)},
	}
	return s.write(ack.Append(nil, packet.V5))
}

// refuse answers CONNECT with what err says. The peer may be past hearing it.
func (s *stream) refuse(err error) {
	ack := packet.Connack{ReasonCode: reasonOf(err)}
	ack.Properties.SetReasonString(err.Error())
	_ = s.write(ack.Append(nil, packet.V5))
}

// reasonOf returns the Reason Code for an error about what the peer sent.
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
