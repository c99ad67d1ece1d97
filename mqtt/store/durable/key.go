package durable

import (
	"encoding/binary"
	"errors"

	"github.com/hpmq/hpmq/mqtt/store"
)

// The columns: the first byte of each key. Numbers in keys are big endian, so
// that their order is that of the bytes.
const (
	columnFloor     = 'f' // lane, site
	columnMeta      = 'm' // name
	columnOutbound  = 'o' // length of the peer's name, the name, kind, [sequence number]
	columnRetained  = 'r' // topic
	columnTombstone = 't' // topic
	columnSession   = 's' // number of the session, kind, ...
	columnValue     = 'v' // length of the scope, the scope, key
)

// The kinds of keys of a session.
const (
	sessionRecord       = 0
	sessionSubscription = 1 // filter
	sessionReceived     = 2 // packet identifier
	sessionSent         = 3 // sequence number
	sessionEntry        = 4 // sequence number
)

// The kinds of keys of an outbound log.
const (
	outboundAcknowledged = 0
	outboundEntry        = 1 // sequence number
)

// metaFormat is the key of the format's number.
var metaFormat = []byte{columnMeta, 'f'}

var errKey = errors.New("a key that this version does not know")

func appendSessionKey(dst []byte, id uint64, kind byte) []byte {
	return append(binary.BigEndian.AppendUint64(append(dst, columnSession), id), kind)
}

// cutSessionKey splits a key of the session column.
func cutSessionKey(key []byte) (id uint64, kind byte, rest []byte, err error) {
	if len(key) < 10 {
		return 0, 0, nil, errKey
	}
	return binary.BigEndian.Uint64(key[1:]), key[9], key[10:], nil
}

func appendOutboundKey(dst []byte, peer string, kind byte) []byte {
	return append(appendNamed(append(dst, columnOutbound), peer), kind)
}

func cutOutboundKey(key []byte) (peer string, kind byte, rest []byte, err error) {
	name, rest, err := cutNamed(key[1:])
	if err != nil || len(rest) == 0 {
		return "", 0, nil, errKey
	}
	return string(name), rest[0], rest[1:], nil
}

func appendFloorKey(dst []byte, k laneKey) []byte {
	return append(binary.BigEndian.AppendUint16(append(dst, columnFloor), k.lane), k.site...)
}

func cutFloorKey(key []byte) (laneKey, error) {
	if len(key) < 3 {
		return laneKey{}, errKey
	}
	return laneKey{site: string(key[3:]), lane: binary.BigEndian.Uint16(key[1:])}, nil
}

func appendValueKey(dst []byte, k valueKey) []byte {
	return append(appendNamed(append(dst, columnValue), k.scope), k.key...)
}

func cutValueKey(key []byte) (valueKey, error) {
	scope, rest, err := cutNamed(key[1:])
	return valueKey{string(scope), string(rest)}, err
}

func appendRetainedKey(dst []byte, topic string) []byte {
	return append(append(dst, columnRetained), topic...)
}

func appendTombstoneKey(dst []byte, topic string) []byte {
	return append(append(dst, columnTombstone), topic...)
}

// appendNamed appends s with its length before it.
func appendNamed(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(s))), s...)
}

func cutNamed(b []byte) (name, rest []byte, err error) {
	if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
		return nil, nil, errKey
	}
	n := 4 + int(binary.BigEndian.Uint32(b))
	return b[4:n], b[n:], nil
}

func cutSeq(rest []byte) (uint64, error) {
	if len(rest) != 8 {
		return 0, errKey
	}
	return binary.BigEndian.Uint64(rest), nil
}

type (
	laneKey struct {
		site string
		lane uint16
	}
	valueKey struct{ scope, key string }
)

func laneOf(o store.Origin) laneKey { return laneKey{o.Site, o.Lane} }
