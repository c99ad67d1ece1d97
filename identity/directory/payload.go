package directory

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// Kind says which fact a record states and how its payload reads.
type Kind string

// The kinds of record there are. A replica stores and passes on a kind that it
// does not know, so that nodes can be upgraded one by one.
const (
	KindSigner     Kind = "signer"
	KindIdentity   Kind = "identity"
	KindNode       Kind = "node"
	KindRevocation Kind = "revocation"
	KindPolicy     Kind = "policy"
	KindFunction   Kind = "function"
	KindTicket     Kind = "ticket"
	KindVoid       Kind = "void"
	KindSite       Kind = "site"
)

// Payload is the content of a record: one of [Signer], [Identity], [Node],
// [Revocation], [Policy], [Function], [TicketUse], [Void], [Site], or [Opaque] when
// the kind is unknown here.
type Payload interface {
	// slot names the record's place: a newer record in the same slot follows
	// the older one.
	slot() slot
	check() error
}

type slot struct {
	Kind Kind
	Key  string
}

// Signer adds a key. Records and heads that it signs are accepted from then on. Its
// record is signed by an earlier signer.
type Signer struct {
	Key ed25519.PublicKey `cbor:"1,keyasint"`
}

// State says whether an identity may be used.
type State string

// The states of an identity.
const (
	Active   State = "active"   // has a certificate, may renew
	Revoked  State = "revoked"  // may neither connect, renew nor enrol
	Replaced State = "replaced" // its key was given up; a new ticket may enrol the name again
)

// Identity is the trust domain's knowledge of one identity: the attributes that
// never go into certificates, and the certificate that is current.
type Identity struct {
	ID     identity.ID       `cbor:"1,keyasint"`
	Labels map[string]string `cbor:"2,keyasint,omitempty"`
	Site   string            `cbor:"3,keyasint,omitempty"` // home site
	State  State             `cbor:"4,keyasint"`

	// Generation counts the certificates issued under this name; it is in the
	// certificate too, so that a copy of an older one gives itself away.
	Generation uint64    `cbor:"5,keyasint"`
	SPKI       [32]byte  `cbor:"6,keyasint"` // SHA-256 of the current key's SubjectPublicKeyInfo; zero when replaced
	NotAfter   time.Time `cbor:"7,keyasint"` // of the current certificate

	// Leaf is the current certificate (DER), and Request the id of the ticket or
	// renewal that it answered: a repeated request gets the same answer.
	Leaf    []byte `cbor:"8,keyasint,omitempty"`
	Request string `cbor:"9,keyasint,omitempty"`
}

// Node says where a node is reached. Addresses are host:port.
type Node struct {
	ID    identity.ID `cbor:"1,keyasint"`
	Site  string      `cbor:"2,keyasint"`
	Mesh  []string    `cbor:"3,keyasint,omitempty"` // overlay, UDP
	API   []string    `cbor:"4,keyasint,omitempty"` // enrolment and renewal, TLS
	MQTT  []string    `cbor:"5,keyasint,omitempty"` // MQTT over TLS
	Roles []string    `cbor:"6,keyasint,omitempty"` // "ca" among them when it issues certificates
}

// Revocation ends every certificate of ID up to and including Generation. The
// set of revocations only grows.
type Revocation struct {
	ID         identity.ID `cbor:"1,keyasint"`
	Generation uint64      `cbor:"2,keyasint"`
	Reason     string      `cbor:"3,keyasint,omitempty"`
	Time       time.Time   `cbor:"4,keyasint"`

	// ClearRetained asks each node to clear the retained messages that ID published.
	ClearRetained bool `cbor:"5,keyasint,omitempty"`
}

// Policy is the set of policy files in force. The newest wins.
type Policy struct {
	Version uint64            `cbor:"1,keyasint"`
	Files   map[string][]byte `cbor:"2,keyasint"`
	Hash    [32]byte          `cbor:"3,keyasint"` // HashFiles(Files)
}

// Function is a WebAssembly module that policy may bind by name.
type Function struct {
	Name   string   `cbor:"1,keyasint"`
	SHA256 [32]byte `cbor:"2,keyasint"`
	Size   uint64   `cbor:"3,keyasint"`
}

// TicketUse counts the enrolments made with one ticket and remembers the key
// of the last.
type TicketUse struct {
	TicketID string      `cbor:"1,keyasint"`
	ID       identity.ID `cbor:"2,keyasint"`
	Uses     uint64      `cbor:"3,keyasint"`
	SPKI     [32]byte    `cbor:"4,keyasint"`
}

// Void ends the tickets for ID that were minted up to a time and are not used
// up. Until it is used, nothing but its holder knows of a ticket.
type Void struct {
	ID        identity.ID `cbor:"1,keyasint"`
	UnixMilli int64       `cbor:"2,keyasint"`
}

// Site tells of a site that an operator has removed: nothing waits for it any
// more. A node that joins as this site afterwards begins anew.
type Site struct {
	Name    string `cbor:"1,keyasint"`
	Removed bool   `cbor:"2,keyasint,omitempty"`
}

// Time returns up to when tickets are void, by the writer's clock.
func (p Void) Time() time.Time { return time.UnixMilli(p.UnixMilli).UTC() }

// Opaque is the payload of a record of a kind that this version does not know.
type Opaque struct {
	Kind Kind
	Key  string
}

// HashFiles returns the hash that identifies a set of policy files.
func HashFiles(files map[string][]byte) [32]byte {
	b, err := encoding.Marshal(files)
	if err != nil { // a map of byte strings always encodes
		panic(err)
	}
	return sha256.Sum256(b)
}

func (p Signer) slot() slot     { return slot{KindSigner, keyID(p.Key).String()} }
func (p Identity) slot() slot   { return slot{KindIdentity, p.ID.String()} }
func (p Node) slot() slot       { return slot{KindNode, p.ID.String()} }
func (p Revocation) slot() slot { return slot{KindRevocation, p.ID.String()} }
func (p Policy) slot() slot     { return slot{KindPolicy, "policy"} }
func (p Function) slot() slot   { return slot{KindFunction, p.Name} }
func (p TicketUse) slot() slot  { return slot{KindTicket, p.TicketID} }
func (p Void) slot() slot       { return slot{KindVoid, p.ID.String()} }
func (p Site) slot() slot       { return slot{KindSite, p.Name} }
func (p Opaque) slot() slot     { return slot(p) }

func (p Signer) check() error {
	if len(p.Key) != ed25519.PublicKeySize {
		return fmt.Errorf("signer key of %d bytes, want %d", len(p.Key), ed25519.PublicKeySize)
	}
	return nil
}

func (p Identity) check() error {
	if p.ID.IsZero() {
		return errors.New("identity without an id")
	}
	switch p.State {
	case Active, Revoked, Replaced:
		return nil
	default:
		return fmt.Errorf("identity state %q", p.State)
	}
}

func (p Node) check() error {
	if p.ID.Kind != identity.Node {
		return fmt.Errorf("node record for %q, want a node", p.ID)
	}
	return nil
}

func (p Revocation) check() error {
	if p.ID.IsZero() {
		return errors.New("revocation without an id")
	}
	return nil
}

func (p Policy) check() error {
	if got := HashFiles(p.Files); got != p.Hash {
		return fmt.Errorf("policy version %d: hash %x does not match its files (%x)", p.Version, p.Hash[:4], got[:4])
	}
	return nil
}

func (p Function) check() error {
	if p.Name == "" {
		return errors.New("function without a name")
	}
	return nil
}

func (p TicketUse) check() error {
	if p.TicketID == "" {
		return errors.New("ticket use without a ticket id")
	}
	return nil
}

func (p Void) check() error {
	if p.ID.IsZero() {
		return errors.New("void tickets without an id")
	}
	return nil
}

func (p Site) check() error {
	if p.Name == "" {
		return errors.New("site without a name")
	}
	return nil
}

func (p Opaque) check() error {
	return fmt.Errorf("records of kind %q are not written by this version", p.Kind)
}

// Decode returns the record's content, or [Opaque] for an unknown kind. The
// caller may keep and change it.
func (r *Record) Decode() (Payload, error) {
	switch r.Kind {
	case KindSigner:
		return decodeAs[Signer](r)
	case KindIdentity:
		return decodeAs[Identity](r)
	case KindNode:
		return decodeAs[Node](r)
	case KindRevocation:
		return decodeAs[Revocation](r)
	case KindPolicy:
		return decodeAs[Policy](r)
	case KindFunction:
		return decodeAs[Function](r)
	case KindTicket:
		return decodeAs[TicketUse](r)
	case KindVoid:
		return decodeAs[Void](r)
	case KindSite:
		return decodeAs[Site](r)
	default:
		return Opaque{Kind: r.Kind, Key: r.Key}, nil
	}
}

func decodeAs[T Payload](r *Record) (Payload, error) {
	var p T
	if err := decoding.Unmarshal(r.Payload, &p); err != nil {
		return nil, fmt.Errorf("%s record %d: %w", r.Kind, r.Seq, err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("record %d: %w", r.Seq, err)
	}
	if got := p.slot(); got.Key != r.Key {
		return nil, fmt.Errorf("%s record %d: key %q holds a payload for %q", r.Kind, r.Seq, r.Key, got.Key)
	}
	return p, nil
}

// clone returns a copy that shares no memory a caller could change.
func (p Identity) clone() Identity {
	p.Labels, p.Leaf, p.NotAfter = maps.Clone(p.Labels), bytes.Clone(p.Leaf), p.NotAfter.UTC()
	return p
}

func (p Node) clone() Node {
	p.Mesh, p.API, p.MQTT, p.Roles = slices.Clone(p.Mesh), slices.Clone(p.API), slices.Clone(p.MQTT), slices.Clone(p.Roles)
	return p
}

// signerID is the short name of a signer key, as records carry it.
type signerID [8]byte

func (k signerID) String() string { return hex.EncodeToString(k[:]) }

func keyID(key ed25519.PublicKey) signerID {
	sum := sha256.Sum256(key)
	return signerID(sum[:8])
}
