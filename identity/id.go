package identity

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Kind is the first path segment of an [ID]: the sort of thing that it names.
type Kind string

// The kinds of identity there are.
const (
	Device   Kind = "device"   // enrolled with hpmq-enroll
	Node     Kind = "node"     // one hpmq process
	User     Kind = "user"     // a person
	Service  Kind = "service"  // a program that is not a device, among them the plain listener's local and guest
	Function Kind = "function" // a WebAssembly module
)

// ID is a SPIFFE ID of the form spiffe://<trust-domain>/<kind>/<name>. It is
// comparable; the zero ID is no identity.
type ID struct {
	TrustDomain string
	Kind        Kind
	Name        string
}

// The name's alphabet holds no '/', '+', '#' or '$', so that a name expanded
// into a topic filter stays one literal level.
var (
	namePattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9._@-]{0,62}$`)
	domainPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,252}[a-z0-9])?$`)
)

var errNoID = errors.New("empty identity")

// NewID returns the ID of kind and name in trustDomain, or an error that says
// which part is malformed.
func NewID(trustDomain string, kind Kind, name string) (ID, error) {
	id := ID{TrustDomain: trustDomain, Kind: kind, Name: name}
	return id, id.check()
}

// ParseID reads a SPIFFE URI such as spiffe://lab.test/device/pump-7.
func ParseID(uri string) (ID, error) {
	rest, ok := strings.CutPrefix(uri, "spiffe://")
	if !ok {
		return ID{}, fmt.Errorf("identity %q: want spiffe://<trust-domain>/<kind>/<name>", uri)
	}
	domain, path, _ := strings.Cut(rest, "/")
	kind, name, _ := strings.Cut(path, "/")
	return NewID(domain, Kind(kind), name)
}

// ParseShort reads the form that people type, device:pump-7 or device/pump-7,
// inside trustDomain. A name alone is a device.
func ParseShort(trustDomain, s string) (ID, error) {
	if strings.HasPrefix(s, "spiffe://") {
		return ParseID(s)
	}
	kind, name, ok := strings.Cut(strings.Replace(s, "/", ":", 1), ":")
	if !ok {
		return NewID(trustDomain, Device, s)
	}
	return NewID(trustDomain, Kind(kind), name)
}

func (id ID) check() error {
	if id.IsZero() {
		return errNoID
	}
	if !domainPattern.MatchString(id.TrustDomain) {
		return fmt.Errorf("trust domain %q: want a lower-case DNS name", id.TrustDomain)
	}
	switch id.Kind {
	case Device, Node, User, Service, Function:
	default:
		return fmt.Errorf("identity kind %q: want device, node, user, service or function", id.Kind)
	}
	if !namePattern.MatchString(id.Name) {
		return fmt.Errorf("identity name %q: want 1-63 of a-z 0-9 . _ @ -, beginning with a letter or digit", id.Name)
	}
	return nil
}

// IsZero reports whether id is no identity.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the SPIFFE URI, or "" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.TrustDomain + "/" + string(id.Kind) + "/" + id.Name
}

// Short returns kind:name, the form that policy files and messages to people use.
func (id ID) Short() string {
	if id.IsZero() {
		return ""
	}
	return string(id.Kind) + ":" + id.Name
}

// URL returns the ID as the URI SAN of a certificate.
func (id ID) URL() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: "/" + string(id.Kind) + "/" + id.Name}
}

// MarshalText returns the SPIFFE URI.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the text of MarshalText; an empty text is the zero ID.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*id = ID{}
		return nil
	}
	got, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = got
	return nil
}
