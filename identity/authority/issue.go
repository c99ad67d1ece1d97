package authority

import (
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/smallstep/certificates/authority/provisioner"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// grant is one certificate that was decided on and is about to be signed.
type grant struct {
	record directory.Identity  // as it shall be; Leaf and NotAfter are filled on storing
	along  []directory.Payload // recorded together with it, all or nothing
}

// Local describes an identity of this process or machine: the node's own, the
// operator's.
type Local struct {
	ID     identity.ID
	Key    crypto.Signer // stays with the caller
	Names  []string      // DNS names and IP addresses, for nodes
	Labels map[string]string
	Site   string // empty means Options.Site
}

// Issue certifies a local identity. Its earlier key does not matter: the caller of
// Issue holds the CA's keys. A name that was revoked is refused until it is replaced.
func (a *Authority) Issue(ctx context.Context, l Local) (*identity.SVID, error) {
	der, err := identity.NewCSR(l.Key, l.ID, l.Names...)
	if err != nil {
		return nil, err
	}
	csr, _, err := identity.ParseCSR(der)
	if err != nil {
		return nil, err
	}
	if err := checkNames(csr, l.ID); err != nil {
		return nil, err
	}
	defer a.names.lock(l.ID)()
	p, _ := a.dir.Identity(l.ID)
	if p.State == directory.Revoked {
		return nil, a.refusal(p)
	}
	p.ID, p.Labels, p.Site, p.Request = l.ID, l.Labels, a.orOwnSite(l.Site), "local"
	p, err = a.issue(ctx, p, csr)
	if err != nil {
		return nil, err
	}
	chain, err := a.chainOf(p)
	if err != nil {
		return nil, err
	}
	return identity.NewSVID(chain, l.Key)
}

// issue signs the next certificate of p for the key of csr and records it,
// together with along. The caller holds the name's lock and has decided.
func (a *Authority) issue(ctx context.Context, p directory.Identity, csr *x509.CertificateRequest, along ...directory.Payload) (directory.Identity, error) {
	p.State = directory.Active
	p.Generation++
	p.SPKI = spkiHash(csr.RawSubjectPublicKeyInfo)
	if owner, ok := a.dir.ByKey(p.SPKI); ok && owner.ID != p.ID {
		return p, refuse(http.StatusConflict, "make a new key, each identity has its own",
			"the key of this request belongs to %s", owner.ID.Short())
	}
	leaf, err := a.template(p, csr)
	if err != nil {
		return p, err
	}
	g := &grant{record: p, along: along}
	defer a.db.ask(g)()
	// Everything in the certificate comes from our template. Only the key comes from
	// the request, and smallstep checks its possession once more.
	_, err = a.step.SignWithContext(ctx, csr, provisioner.SignOptions{},
		provisioner.CertificateEnforcerFunc(func(c *x509.Certificate) error {
			*c = *leaf
			return nil
		}))
	if err != nil {
		return p, fmt.Errorf("issue certificate of %s: %w", p.ID.Short(), err)
	}
	return g.record, nil
}

// template is the content of the certificate of p at its generation.
func (a *Authority) template(p directory.Identity, csr *x509.CertificateRequest) (*x509.Certificate, error) {
	i, err := a.keys.current()
	if err != nil {
		return nil, err
	}
	backdate, usage := identity.Backdate, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	if p.ID.Kind == identity.User {
		backdate, usage = identity.UserBackdate, usage[:1]
	}
	now, since := a.now(), identity.Issued(a.keys.root)
	if err := checkClock(now, since, "the CA was made on "+since.Format(time.RFC3339)); err != nil {
		return nil, err
	}
	end := now.Add(a.lifetimeOf(p))
	if end.After(i.cert.NotAfter) {
		end = i.cert.NotAfter
	}
	gen, err := identity.GenerationExtension(p.Generation)
	if err != nil {
		return nil, err
	}
	issued, err := identity.IssuedExtension(now)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		PublicKey:             csr.PublicKey,
		PublicKeyAlgorithm:    csr.PublicKeyAlgorithm,
		Subject:               pkix.Name{CommonName: p.ID.Name},
		URIs:                  []*url.URL{p.ID.URL()},
		DNSNames:              csr.DNSNames,
		IPAddresses:           csr.IPAddresses,
		NotBefore:             now.Add(-backdate).Truncate(time.Second),
		NotAfter:              end.Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		BasicConstraintsValid: true,
		ExtraExtensions:       []pkix.Extension{gen, issued},
	}, nil
}

// checkNames says whether id may have the DNS names and addresses that a
// request asks for. They exist so that stock clients find a node by the names
// people use; inside the trust domain a node has only its own.
func checkNames(csr *x509.CertificateRequest, id identity.ID) error {
	if id.Kind != identity.Node {
		if len(csr.DNSNames)+len(csr.IPAddresses) > 0 {
			return fmt.Errorf("%s: only nodes have DNS names and addresses in their certificates", id.Short())
		}
		return nil
	}
	own := id.Name + ".node." + id.TrustDomain
	for _, name := range csr.DNSNames {
		lower := strings.ToLower(name)
		inside := lower == id.TrustDomain || strings.HasSuffix(lower, "."+id.TrustDomain)
		switch {
		case !isHostName(lower):
			return fmt.Errorf("%s: %q is not a host name", id.Short(), name)
		case inside && lower != own:
			return fmt.Errorf("%s: of the names in %s only %s is its own", id.Short(), id.TrustDomain, own)
		}
	}
	return nil
}

// isHostName reports whether s is letters, digits and hyphens between dots:
// no wildcard, no underscore, nothing that a verifier could read differently.
func isHostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
		}) {
			return false
		}
	}
	return true
}

// chainOf returns the current certificate of p and its intermediate.
func (a *Authority) chainOf(p directory.Identity) ([]*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(p.Leaf)
	if err != nil {
		return nil, fmt.Errorf("recorded certificate of %s: %w", p.ID.Short(), err)
	}
	return a.keys.chain(leaf)
}

func (a *Authority) orOwnSite(site string) string {
	if site == "" {
		return a.site
	}
	return site
}
