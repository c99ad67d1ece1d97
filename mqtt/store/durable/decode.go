package durable

import (
	"encoding/binary"
	"errors"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

var (
	errVersion = errors.New("a value of another version")
	errValue   = errors.New("a value that is no record of its kind")
)

// decoder reads a value. After the first failure it returns zeros, and err holds the
// failure.
type decoder struct {
	b   []byte
	err error
}

// newDecoder begins after the version.
func newDecoder(value []byte) decoder {
	if len(value) == 0 || value[0] != version {
		return decoder{err: errVersion}
	}
	return decoder{b: value[1:]}
}

// take returns the next n bytes.
func (d *decoder) take(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err, d.b = errValue, nil
	}
}

func (d *decoder) uint8() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// uvarint accepts only the shortest form.
func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) text() string { return string(d.take(d.uvarint())) }

// truth accepts 0 and 1.
func (d *decoder) truth() bool {
	b := d.uint8()
	if b > 1 {
		d.fail()
	}
	return b == 1
}

// flags accepts a QoS and the known bits above it.
func (d *decoder) flags(known byte) byte {
	f := d.uint8()
	if f&^known != 0 || f&3 == 3 {
		d.fail()
	}
	return f
}

// end fails if something is left.
func (d *decoder) end() error {
	if len(d.b) > 0 {
		d.fail()
	}
	return d.err
}

// message reads the rest of the value as a message. Its payload and properties are
// parts of the decoder's bytes.
func (d *decoder) message() *store.Message {
	flags := d.flags(messageKnown)
	m := &store.Message{QoS: flags & 3, Retain: flags&messageRetain != 0}
	m.HLC = d.uint64()
	m.Topic = d.text()
	m.Publisher = d.text()
	m.ClientID = d.text()
	if flags&messageExpires != 0 {
		m.Expires = int64(d.uint64())
		d.must(m.Expires != 0)
	}
	if flags&messageOrigin != 0 {
		m.Origin.Site = d.text()
		m.Origin.Epoch = d.uint64()
		m.Origin.Seq = d.uint64()
		m.Origin.Lane = d.uint16()
		d.must(m.Origin != store.Origin{})
	}
	if flags&messageProps != 0 && d.err == nil {
		n, err := m.Props.Decode(packet.TypePublish, d.b)
		if d.must(err == nil && n > 1); d.err == nil {
			d.b = d.b[n:]
		}
	}
	m.Payload, d.b = d.b, nil
	return m
}

func (d *decoder) must(ok bool) {
	if !ok {
		d.fail()
	}
}

// decodeEntry reads an entry of a queue. The message keeps value.
func decodeEntry(value []byte) (store.Delivery, error) {
	d := newDecoder(value)
	flags := d.flags(3 | messageRetain)
	e := store.Delivery{QoS: flags & 3, Retain: flags&messageRetain != 0}
	n := d.uvarint()
	d.must(n <= uint64(len(d.b)))
	for range n {
		if d.err != nil {
			break
		}
		id := d.uvarint()
		d.must(id <= 1<<32-1)
		e.IDs = append(e.IDs, uint32(id))
	}
	e.Message = d.message()
	return e, d.end()
}

// decodeMessage reads a retained message or one of an outbound log. The message
// keeps value.
func decodeMessage(value []byte) (*store.Message, error) {
	d := newDecoder(value)
	m := d.message()
	return m, d.end()
}

func decodeSession(value []byte) (*store.Session, error) {
	d := newDecoder(value)
	s := &store.Session{Key: store.SessionKey{Identity: d.text(), ClientID: d.text()}}
	s.Expiry = d.uint32()
	s.Disconnected = int64(d.uint64())
	if d.truth() {
		s.WillDelay = d.uint32()
		s.WillAt = int64(d.uint64())
		s.Will = d.message()
	}
	return s, d.end()
}

func decodeSubscription(filter string, value []byte) (store.Subscription, error) {
	d := newDecoder(value)
	flags := d.flags(subscriptionKnown)
	s := store.Subscription{
		Filter: filter, QoS: flags & 3,
		NoLocal:           flags&subscriptionNoLocal != 0,
		RetainAsPublished: flags&subscriptionRetainAsPublished != 0,
		RetainHandling:    d.uint8(),
		ID:                d.uint32(),
	}
	return s, d.end()
}

func decodeSent(value []byte) (store.Sent, error) {
	d := newDecoder(value)
	e := store.Sent{PacketID: d.uint16(), Released: d.truth()}
	return e, d.end()
}

func decodeFloor(k laneKey, value []byte) (store.Origin, error) {
	d := newDecoder(value)
	o := store.Origin{Site: k.site, Lane: k.lane, Epoch: d.uint64(), Seq: d.uint64()}
	return o, d.end()
}
