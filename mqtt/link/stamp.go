package link

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// The lanes of a stream.
const (
	laneLog      = 0 // the outbound log, in order; QoS 0 messages, without a number
	laneRetained = 1 // copies of retained messages, without a number
)

// The stamp is the user properties that a link puts before the publisher's own:
// always all of them, in this order.
const (
	stampOrigin    = "o" // site.epoch.lane.seq, the epoch in hexadecimal
	stampClock     = "h" // hybrid logical clock, in hexadecimal
	stampQoS       = "q" // as published; then, if numbers before this one were left out, + and how many
	stampPublisher = "p" // SPIFFE ID
	stampClient    = "c" // client identifier
	stampLen       = 5
)

// maxIdentity bounds the names in a stamp that are kept with a message.
const maxIdentity = 1024

var errStamp = errors.New("properties of the link are missing or malformed")

// stamper encodes messages for the wire. It belongs to one goroutine.
type stamper struct {
	site  string
	epoch uint64
	text  []byte
	user  []packet.UserProperty
	pub   packet.Publish
}

// publish returns m as it goes to a peer, valid until the next call. The packet
// identifier is left to the caller.
func (s *stamper) publish(m *store.Message, qos byte, lane uint16, seq uint64, now time.Time) *packet.Publish {
	b := append(s.text[:0], s.site...)
	b = strconv.AppendUint(append(b, '.'), s.epoch, 16)
	b = strconv.AppendUint(append(b, '.'), uint64(lane), 10)
	b = strconv.AppendUint(append(b, '.'), seq, 10)
	end := len(b)
	b = strconv.AppendUint(b, m.HLC, 16)
	text := string(b) // one allocation for both
	s.text = b
	s.user = append(s.user[:0],
		packet.UserProperty{Key: stampOrigin, Value: text[:end]},
		packet.UserProperty{Key: stampClock, Value: text[end:]},
		packet.UserProperty{Key: stampQoS, Value: "012"[m.QoS : m.QoS+1]},
		packet.UserProperty{Key: stampPublisher, Value: m.Publisher},
		packet.UserProperty{Key: stampClient, Value: m.ClientID})
	s.user = append(s.user, m.Props.User...)
	s.pub = packet.Publish{
		QoS: qos, Retain: m.Retain, PacketID: 1,
		TopicName: append(s.pub.TopicName[:0], m.Topic...), Payload: m.Payload, Properties: m.Props,
	}
	s.pub.Properties.User = s.user
	if m.Expires != 0 {
		left := (m.Expires - now.UnixNano() + int64(time.Second) - 1) / int64(time.Second)
		s.pub.Properties.SetMessageExpiryInterval(uint32(min(max(left, 1), math.MaxUint32)))
	}
	return &s.pub
}

// tellSkipped adds to the last message that this many numbers before its own were
// left out.
func (s *stamper) tellSkipped(n uint64) *packet.Publish {
	s.user[2].Value += "+" + strconv.FormatUint(n, 10)
	return &s.pub
}

// skippedBefore returns how many numbers before that of p were left out. p was parsed
// without an error.
func skippedBefore(p *packet.Publish) uint64 {
	_, text, _ := strings.Cut(p.Properties.User[2].Value, "+")
	n, _ := strconv.ParseUint(text, 10, 64) // parseQoS has seen it
	return n
}

// parse returns the message that a peer sent as p; the message keeps the slices of p.
// An error means that p is not of this protocol.
func parse(p *packet.Publish, now time.Time) (*store.Message, error) {
	if len(p.TopicName) == 0 || p.Properties.Has(packet.PropTopicAlias) {
		return nil, errors.New("topic alias where none was allowed")
	}
	user := p.Properties.User
	if len(user) < stampLen || user[0].Key != stampOrigin || user[1].Key != stampClock ||
		user[2].Key != stampQoS || user[3].Key != stampPublisher || user[4].Key != stampClient {
		return nil, errStamp
	}
	m := &store.Message{
		Topic: string(p.TopicName), Payload: p.Payload, Retain: p.Retain, Props: p.Properties.Forwarded(),
		Publisher: user[3].Value, ClientID: user[4].Value,
	}
	if len(m.Publisher) > maxIdentity {
		return nil, errStamp
	}
	if m.Props.User = user[stampLen:]; len(m.Props.User) == 0 {
		m.Props.User = nil
	}
	if m.Props.Has(packet.PropMessageExpiryInterval) {
		m.Expires = now.UnixNano() + int64(m.Props.MessageExpiryInterval)*int64(time.Second)
		m.Props.Clear(packet.PropMessageExpiryInterval)
		m.Props.MessageExpiryInterval = 0
	}
	var err error
	if m.Origin, err = parseOrigin(user[0].Value); err != nil {
		return nil, err
	}
	if m.HLC, err = strconv.ParseUint(user[1].Value, 16, 64); err != nil {
		return nil, errStamp
	}
	if m.QoS, err = parseQoS(user[2].Value, p.QoS); err != nil {
		return nil, err
	}
	return m, nil
}

// parseQoS reads the QoS as published of a message that came at QoS wire. One of
// QoS 0 may travel acknowledged, not the other way round.
func parseQoS(s string, wire byte) (byte, error) {
	s, skipped, told := strings.Cut(s, "+")
	if _, err := strconv.ParseUint(skipped, 10, 64); told && err != nil {
		return 0, errStamp
	}
	if len(s) != 1 || s[0] < '0' || s[0] > '2' || wire == 0 && s[0] != '0' {
		return 0, errStamp
	}
	return s[0] - '0', nil
}

// parseOrigin reads site.epoch.lane.seq. A site may have dots itself.
func parseOrigin(s string) (store.Origin, error) {
	var field [3]string
	for i := range field {
		dot := strings.LastIndexByte(s, '.')
		if dot < 0 {
			return store.Origin{}, errStamp
		}
		s, field[i] = s[:dot], s[dot+1:]
	}
	seq, err1 := strconv.ParseUint(field[0], 10, 64)
	lane, err2 := strconv.ParseUint(field[1], 10, 16)
	epoch, err3 := strconv.ParseUint(field[2], 16, 64)
	if s == "" || err1 != nil || err2 != nil || err3 != nil {
		return store.Origin{}, errStamp
	}
	return store.Origin{Site: s, Epoch: epoch, Lane: uint16(lane), Seq: seq}, nil
}

// checkTopic refuses names that no client could have published.
func checkTopic(name string) error {
	if err := topic.ValidName(name); err != nil {
		return fmt.Errorf("topic name %w", err)
	}
	if strings.HasPrefix(name, "$") {
		return errors.New("topic begins with $")
	}
	return nil
}
