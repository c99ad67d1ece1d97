package durable

import (
	"encoding/binary"

	"github.com/hpmq/hpmq/mqtt/store"
)

// version is the first byte of every value.
const version = 1

// The bits of a message's first byte, above its QoS.
const (
	messageRetain = 1 << (iota + 2)
	messageProps
	messageExpires
	messageOrigin
	messageKnown = 1<<(iota+2) - 1
)

// appendMessage appends m without a version: it is always part of a value.
func appendMessage(dst []byte, m *store.Message) []byte {
	flags := m.QoS
	if m.Retain {
		flags |= messageRetain
	}
	if m.Props.Present != 0 || len(m.Props.User) > 0 || len(m.Props.SubscriptionIDs) > 0 {
		flags |= messageProps
	}
	if m.Expires != 0 {
		flags |= messageExpires
	}
	if m.Origin != (store.Origin{}) {
		flags |= messageOrigin
	}
	dst = binary.BigEndian.AppendUint64(append(dst, flags), m.HLC)
	dst = appendText(dst, m.Topic)
	dst = appendText(dst, m.Publisher)
	dst = appendText(dst, m.ClientID)
	if flags&messageExpires != 0 {
		dst = binary.BigEndian.AppendUint64(dst, uint64(m.Expires))
	}
	if flags&messageOrigin != 0 {
		dst = appendOrigin(appendText(dst, m.Origin.Site), m.Origin)
		dst = binary.BigEndian.AppendUint16(dst, m.Origin.Lane)
	}
	if flags&messageProps != 0 {
		dst = m.Props.Append(dst)
	}
	return append(dst, m.Payload...)
}

// appendOrigin appends the numbers that a floor is made of.
func appendOrigin(dst []byte, o store.Origin) []byte {
	dst = binary.BigEndian.AppendUint64(dst, o.Epoch)
	return binary.BigEndian.AppendUint64(dst, o.Seq)
}

// appendDelivery appends the part of a queue's entry before its message.
func appendDelivery(dst []byte, d store.Delivery) []byte {
	flags := d.QoS
	if d.Retain {
		flags |= messageRetain
	}
	dst = binary.AppendUvarint(append(dst, version, flags), uint64(len(d.IDs)))
	for _, id := range d.IDs {
		dst = binary.AppendUvarint(dst, uint64(id))
	}
	return dst
}

// appendSession appends the record that [store.Tx.PutSession] keeps.
func appendSession(dst []byte, s *store.Session) []byte {
	dst = appendText(append(dst, version), s.Key.Identity)
	dst = appendText(dst, s.Key.ClientID)
	dst = binary.BigEndian.AppendUint32(dst, s.Expiry)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Disconnected))
	if s.Will == nil {
		return append(dst, 0)
	}
	dst = binary.BigEndian.AppendUint32(append(dst, 1), s.WillDelay)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.WillAt))
	return appendMessage(dst, s.Will)
}

// The bits of a subscription's options, above its QoS.
const (
	subscriptionNoLocal = 1 << (iota + 2)
	subscriptionRetainAsPublished
	subscriptionKnown = 1<<(iota+2) - 1
)

// appendSubscription appends s without its filter, which is in the key.
func appendSubscription(dst []byte, s store.Subscription) []byte {
	flags := s.QoS
	if s.NoLocal {
		flags |= subscriptionNoLocal
	}
	if s.RetainAsPublished {
		flags |= subscriptionRetainAsPublished
	}
	return binary.BigEndian.AppendUint32(append(dst, version, flags, s.RetainHandling), s.ID)
}

func appendSent(dst []byte, e store.Sent) []byte {
	dst = binary.BigEndian.AppendUint16(append(dst, version), e.PacketID)
	return append(dst, truth(e.Released))
}

func truth(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// appendText appends s with its length before it.
func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}
