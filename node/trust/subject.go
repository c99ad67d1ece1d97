package trust

import (
	"errors"
	"fmt"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/policy"
)

// The names of the services of the plain listener. Each site has its own, and the
// directory has none of them.
const (
	LocalName = "local" // the user that runs the node, and root
	GuestName = "guest" // every other user of the machine
)

// IsMachine reports whether id is one of the services of a node's plain listener.
func IsMachine(id identity.ID) bool {
	return id.Kind == identity.Service && (id.Name == LocalName || id.Name == GuestName)
}

// IsLocal reports whether id is the user that runs a node.
func IsLocal(id identity.ID) bool { return id.Kind == identity.Service && id.Name == LocalName }

// ErrUnsettled is an answer that a newer record of the directory may change.
var ErrUnsettled = errors.New("not known yet")

// unsettledError is an answer that is [ErrUnsettled] and does not say so.
type unsettledError struct{ error }

// Is implements the interface of [errors.Is].
func (unsettledError) Is(target error) bool { return target == ErrUnsettled }

// Site decides which identities act at one site. It is safe for concurrent use if
// Identity is.
type Site struct {
	TrustDomain string
	Name        string
	// Identity looks an identity up in the directory.
	Identity func(identity.ID) (directory.Identity, bool)
}

// Subject is id as policy sees it at the site, or the reason why nothing may be done
// in its name here.
func (s *Site) Subject(id identity.ID) (policy.Subject, error) { return s.subjectAt(id, s.Name) }

// subjectAt is the subject at any site. A service of a machine is of the site where
// it speaks, and so is a node: nodes do not roam.
func (s *Site) subjectAt(id identity.ID, site string) (policy.Subject, error) {
	sub := policy.Subject{ID: id, SessionSite: site}
	switch {
	case id.TrustDomain != s.TrustDomain:
		return sub, fmt.Errorf("%s is of another trust domain", id)
	case id.Kind == identity.Function:
		return sub, nil
	case IsMachine(id):
		sub.Site = site
		return sub, nil
	}
	known, ok := s.Identity(id)
	sub.Labels, sub.Site = known.Labels, known.Site
	switch {
	case !ok:
		return sub, unsettledError{fmt.Errorf("%s is not enrolled", id.Short())}
	case known.State == directory.Replaced: // it may be enrolled again
		return sub, unsettledError{fmt.Errorf("%s gave up its key, and is not enrolled again", id.Short())}
	case known.State != directory.Active:
		return sub, fmt.Errorf("%s is %s", id.Short(), known.State)
	case id.Kind == identity.Node && known.Site != site:
		return sub, fmt.Errorf("%s is of site %s, and nodes speak at their own site only", id.Short(), known.Site)
	}
	return sub, nil
}

// Caller is id as policy sees it when it connects to a port of a device, or the
// reason why it cannot. Where a caller is does not matter.
func (s *Site) Caller(id identity.ID) (policy.Subject, error) {
	if IsMachine(id) {
		return policy.Subject{ID: id}, fmt.Errorf("%s has no certificate to connect with: use that of hpmq login", id.Short())
	}
	known, _ := s.Identity(id)
	at := s.Name
	if id.Kind == identity.Node {
		at = known.Site
	}
	return s.subjectAt(id, at)
}

// Publisher is the publisher of a message that another site sent, as policy sees it
// there.
func (s *Site) Publisher(publisher, site string) (policy.Subject, error) {
	id, err := identity.ParseID(publisher)
	if err != nil {
		return policy.Subject{ID: id, SessionSite: site}, err
	}
	if id.Kind == identity.Function && id.TrustDomain == s.TrustDomain {
		return policy.Subject{ID: id}, errors.New("functions publish in the name of the clients whose messages they work on")
	}
	return s.subjectAt(id, site)
}

// KnownNode reports whether id is an active node of the fabric.
func (s *Site) KnownNode(id identity.ID) bool {
	known, ok := s.Identity(id)
	return ok && known.State == directory.Active && id.Kind == identity.Node
}
