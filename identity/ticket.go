package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// The faults of a ticket that are seen without the authority.
var (
	ErrNotTicket     = errors.New("not an enrolment ticket")
	ErrTicketDamaged = errors.New("ticket damaged")
	ErrTicketExpired = errors.New("ticket expired")
)

const (
	ticketPrefix    = "hpmq1."
	ticketDomain    = "hpmq ticket 1\x00" // keeps a ticket's signature from meaning anything else
	maxTicketBytes  = 4 << 10
	maxTicketAddrs  = 16
	maxTicketLabels = 32
)

var (
	ticketIDPattern = regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{26}$`) // a ULID
	labelPattern    = regexp.MustCompile(`^[a-z0-9_][a-z0-9_.-]{0,62}$`)
)

// Ticket lets the holder of one string enrol one identity. It names the
// authority's addresses and pins its root and the directory's first signer, so
// that a device needs neither trust on first use nor a right clock. On paper it
// is "hpmq1." and base64url of deterministic CBOR with integer keys.
type Ticket struct {
	ID          string            `cbor:"1,keyasint"` // a ULID
	Kind        Kind              `cbor:"2,keyasint"`
	Name        string            `cbor:"3,keyasint"` // the only name it is good for
	TrustDomain string            `cbor:"4,keyasint"`
	Addrs       []string          `cbor:"5,keyasint"` // host:port of the enrolment API, the nearest first
	RootHash    [32]byte          `cbor:"6,keyasint"` // SHA-256 of the root certificate's DER
	Signer      []byte            `cbor:"7,keyasint"` // Ed25519 public key of the first directory signer
	Labels      map[string]string `cbor:"8,keyasint,omitempty"`
	Site        string            `cbor:"9,keyasint,omitempty"` // home site
	NotAfter    time.Time         `cbor:"10,keyasint"`          // whole seconds
	Uses        int               `cbor:"11,keyasint"`          // how many keys may enrol with it
	Signature   []byte            `cbor:"12,keyasint,omitempty"`

	// Secret is an Ed25519 seed. The party that enrols proves that it has it, and does
	// not send it: Key is its public half. So a node that passes a request on cannot use
	// the ticket.
	Key    []byte `cbor:"14,keyasint"`
	Secret []byte `cbor:"15,keyasint,omitempty"`
}

// sealedTicket is the ticket as it is printed, with the first bytes of its own
// hash. They tell a slip in copying from a ticket that the authority refuses. The
// signature cannot tell that: a device does not know the key of the signer.
type sealedTicket struct {
	Ticket
	Sum [4]byte `cbor:"13,keyasint"`
}

var ticketEncoder, ticketDecoder = ticketModes()

func ticketModes() (cbor.EncMode, cbor.DecMode) {
	enc := cbor.CoreDetEncOptions()
	enc.Time = cbor.TimeUnix
	em, err := enc.EncMode()
	if err != nil {
		panic(err) // the options above are constant
	}
	dm, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   4,
		MaxArrayElements:  maxTicketAddrs,
		MaxMapPairs:       maxTicketLabels,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return em, dm
}

// ParseTicket reads a ticket, forgiving the spaces and line breaks of a paste.
// It checks form, not authority nor expiry: see [Ticket.Verify] and
// [Ticket.CheckTime].
func ParseTicket(s string) (*Ticket, error) {
	if len(s) > 2*maxTicketBytes {
		return nil, fmt.Errorf("%w: longer than %d characters", ErrNotTicket, maxTicketBytes)
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
	text, ok := strings.CutPrefix(s, ticketPrefix)
	if !ok {
		return nil, fmt.Errorf("%w: it would begin with %q", ErrNotTicket, ticketPrefix)
	}
	if len(s) > maxTicketBytes {
		return nil, fmt.Errorf("%w: longer than %d characters", ErrNotTicket, maxTicketBytes)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; copy it again, whole", ErrTicketDamaged, err)
	}
	var sealed sealedTicket
	if err := ticketDecoder.Unmarshal(raw, &sealed); err != nil {
		return nil, fmt.Errorf("%w: %w; copy it again, whole", ErrTicketDamaged, err)
	}
	t := sealed.Ticket
	t.NotAfter = t.NotAfter.UTC()
	// Encoding is deterministic, so this refuses a wrong sum and every second
	// spelling of the same ticket.
	if again, err := t.seal(); err != nil || !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("%w: its checksum does not fit; copy it again, whole", ErrTicketDamaged)
	}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTicketDamaged, err)
	}
	return &t, nil
}

// String returns the ticket as one word to paste, or "" for one that cannot be
// encoded.
func (t *Ticket) String() string {
	raw, err := t.seal()
	if err != nil {
		return ""
	}
	return ticketPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

func (t *Ticket) seal() ([]byte, error) {
	raw, err := ticketEncoder.Marshal(t)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	return ticketEncoder.Marshal(sealedTicket{*t, [4]byte(sum[:])})
}

// Sign gives the ticket a new secret, checks it and signs it with the key of a
// directory signer.
func (t *Ticket) Sign(key ed25519.PrivateKey) error {
	public, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make the ticket's secret: %w", err)
	}
	t.Key, t.Secret = public, secret.Seed()
	if err := t.check(); err != nil {
		return err
	}
	msg, err := t.signed()
	if err != nil {
		return err
	}
	t.Signature = ed25519.Sign(key, msg)
	if n := len(t.String()); n > maxTicketBytes {
		return fmt.Errorf("ticket of %d characters, at most %d: use fewer labels or addresses", n, maxTicketBytes)
	}
	return nil
}

// Verify checks that the holder of pub's private key signed the ticket.
func (t *Ticket) Verify(pub ed25519.PublicKey) error {
	msg, err := t.signed()
	if err != nil {
		return err
	}
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, msg, t.Signature) {
		return errors.New("ticket is not signed by this authority")
	}
	return nil
}

// signed returns the bytes that the signature covers.
func (t *Ticket) signed() ([]byte, error) {
	unsigned := *t
	unsigned.Signature, unsigned.Secret = nil, nil
	raw, err := ticketEncoder.Marshal(unsigned)
	if err != nil {
		return nil, fmt.Errorf("encode ticket: %w", err)
	}
	return append([]byte(ticketDomain), raw...), nil
}

// Request returns the enrolment of the ticket's identity with csr. The ticket's
// secret signs it and is not in it.
func (t *Ticket) Request(csr []byte) (*EnrolRequest, error) {
	if len(t.Secret) != ed25519.SeedSize {
		return nil, errors.New("ticket without its secret")
	}
	shown := *t
	shown.Secret = nil
	r := &EnrolRequest{Ticket: shown.String(), CSR: csr}
	r.Proof = ed25519.Sign(ed25519.NewKeyFromSeed(t.Secret), r.digest())
	return r, nil
}

// Identity returns the identity that the ticket is good for.
func (t *Ticket) Identity() ID { return ID{t.TrustDomain, t.Kind, t.Name} }

// CheckTime returns an error that wraps [ErrTicketExpired] and says how to get
// a new one when the ticket is over at now.
func (t *Ticket) CheckTime(now time.Time) error {
	if !now.After(t.NotAfter) {
		return nil
	}
	return fmt.Errorf("%w %s ago; ask for: %s", ErrTicketExpired, roughly(now.Sub(t.NotAfter)), t.askFor())
}

func (t *Ticket) askFor() string {
	switch t.Kind {
	case User:
		return "hpmq user add " + t.Name
	case Node:
		return "hpmq site invite " + t.Site
	case Device, Service, Function:
	}
	cmd := "hpmq enroll ticket --name " + t.Name
	if role := t.Labels["role"]; role != "" {
		cmd += " --role " + role
	}
	return cmd
}

// roughly rounds a duration to the two largest units that people say.
func roughly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// check holds a ticket to its bounds, made here or read.
func (t *Ticket) check() error {
	if err := t.Identity().check(); err != nil {
		return err
	}
	if !ticketIDPattern.MatchString(t.ID) {
		return fmt.Errorf("ticket id %q is not a ULID", t.ID)
	}
	if t.Site != "" && !namePattern.MatchString(t.Site) {
		return fmt.Errorf("site %q: want 1-63 of a-z 0-9 . _ @ -", t.Site)
	}
	if len(t.Signer) != ed25519.PublicKeySize {
		return fmt.Errorf("signer key of %d bytes, want %d", len(t.Signer), ed25519.PublicKeySize)
	}
	if len(t.Key) != ed25519.PublicKeySize {
		return fmt.Errorf("ticket key of %d bytes, want %d", len(t.Key), ed25519.PublicKeySize)
	}
	if len(t.Secret) != 0 && len(t.Secret) != ed25519.SeedSize {
		return fmt.Errorf("ticket secret of %d bytes, want %d", len(t.Secret), ed25519.SeedSize)
	}
	if t.Uses < 1 {
		return fmt.Errorf("ticket for %d uses", t.Uses)
	}
	if len(t.Addrs) == 0 || len(t.Addrs) > maxTicketAddrs {
		return fmt.Errorf("ticket with %d addresses, want 1 to %d", len(t.Addrs), maxTicketAddrs)
	}
	for _, addr := range t.Addrs {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return fmt.Errorf("address %q: want host:port", addr)
		}
	}
	return checkLabels(t.Labels)
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxTicketLabels {
		return fmt.Errorf("%d labels, at most %d", len(labels), maxTicketLabels)
	}
	for k, v := range labels {
		if !labelPattern.MatchString(k) {
			return fmt.Errorf("label %q: want 1-63 of a-z 0-9 . _ -", k)
		}
		if len(v) > 255 || !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) {
			return fmt.Errorf("label %s: want at most 255 bytes of printable text", k)
		}
	}
	return nil
}
