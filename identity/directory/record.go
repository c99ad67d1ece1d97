package directory

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/hpmq/hpmq/internal/hlc"
)

// The limits of one record. A peer or a file that exceeds them is refused
// before memory is spent on it.
const (
	maxPayload       = 64 << 10
	maxPolicyPayload = 1 << 20
	maxKey           = 512
	maxKind          = 32
	maxRecord        = maxPolicyPayload + 4<<10 // the largest payload and its envelope
)

// recordDomain and headDomain keep a signature over one thing from being read
// as a signature over another.
const (
	recordDomain = "hpmq directory record 1\n"
	headDomain   = "hpmq directory head 1\n"
)

// Record is one signed fact. Records are numbered from 1 without gaps.
type Record struct {
	Seq       uint64   `cbor:"1,keyasint"`
	Kind      Kind     `cbor:"2,keyasint"`
	Key       string   `cbor:"3,keyasint"`
	Version   uint64   `cbor:"4,keyasint"` // counts the records of this kind and key, from 1
	HLC       uint64   `cbor:"5,keyasint"` // of the writer's clock, see package hlc
	Payload   []byte   `cbor:"6,keyasint"` // deterministic CBOR, see [Record.Decode]
	Signer    [8]byte  `cbor:"7,keyasint"` // first bytes of SHA-256 of the signer's key
	Prev      [32]byte `cbor:"8,keyasint"` // SHA-256 of the record before; zero in the first
	Signature []byte   `cbor:"9,keyasint,omitempty"`
}

// Time returns the wall time of the record's clock.
func (r *Record) Time() time.Time { return hlc.Time(r.HLC).UTC() }

var (
	encoding = newEncoding()
	decoding = newDecoding()
)

func newEncoding() cbor.EncMode {
	o := cbor.CoreDetEncOptions()
	o.TextMarshaler = cbor.TextMarshalerTextString
	m, err := o.EncMode()
	if err != nil { // the options are constants
		panic(err)
	}
	return m
}

func newDecoding() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		TextUnmarshaler:  cbor.TextUnmarshalerTextString,
		MaxNestedLevels:  8,
		MaxArrayElements: 4096,
		MaxMapPairs:      4096,
	}.DecMode()
	if err != nil { // the options are constants
		panic(err)
	}
	return m
}

// sign sets the record's signer and signature and returns its encoding.
func (r *Record) sign(key ed25519.PrivateKey) ([]byte, error) {
	r.Signer = keyID(key.Public().(ed25519.PublicKey))
	msg, err := r.signed()
	if err != nil {
		return nil, err
	}
	r.Signature = ed25519.Sign(key, msg)
	return encoding.Marshal(r)
}

// verify reports whether key signed the record.
func (r *Record) verify(key ed25519.PublicKey) error {
	msg, err := r.signed()
	if err != nil {
		return err
	}
	if !ed25519.Verify(key, msg, r.Signature) {
		return fmt.Errorf("record %d: signature of signer %x does not match", r.Seq, r.Signer)
	}
	return nil
}

// signed returns the bytes that the signature covers.
func (r *Record) signed() ([]byte, error) {
	unsigned := *r
	unsigned.Signature = nil
	b, err := encoding.Marshal(&unsigned)
	return append([]byte(recordDomain), b...), err
}

// entry is a record beside its exact encoding, over which the chain's hash runs.
type entry struct {
	Record

	raw []byte
}

func (e *entry) hash() [32]byte { return sha256.Sum256(e.raw) }

// decodeEntry reads the first record of b and returns the bytes behind it. Only
// the deterministic encoding is accepted: a fact has one form and one hash.
func decodeEntry(b []byte) (e entry, rest []byte, err error) {
	rest, err = decoding.UnmarshalFirst(b, &e.Record)
	if err != nil {
		return entry{}, nil, fmt.Errorf("record: %w", err)
	}
	e.raw = b[:len(b)-len(rest)]
	if again, err := encoding.Marshal(&e.Record); err != nil || !bytes.Equal(again, e.raw) {
		return entry{}, nil, errors.New("record: not in deterministic form")
	}
	return e, rest, e.checkSize()
}

func decodeEntries(b []byte) ([]entry, error) {
	var all []entry
	for len(b) > 0 {
		e, rest, err := decodeEntry(b)
		if err != nil {
			return nil, err
		}
		all, b = append(all, e), rest
	}
	return all, nil
}

func (r *Record) checkSize() error {
	limit := maxPayload
	if r.Kind == KindPolicy {
		limit = maxPolicyPayload
	}
	switch {
	case len(r.Payload) > limit:
		return fmt.Errorf("%s record %q: payload of %d bytes, at most %d fit", r.Kind, r.Key, len(r.Payload), limit)
	case len(r.Key) > maxKey || len(r.Kind) > maxKind:
		return fmt.Errorf("record: kind of %d and key of %d bytes, at most %d and %d fit", len(r.Kind), len(r.Key), maxKind, maxKey)
	}
	return nil
}
