package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
)

// Enrol trades a ticket for the first certificate of its name. The same ticket
// and key get the same certificate again; another key is refused until the name
// is replaced. A refusal is an *[identity.APIError].
func (a *Authority) Enrol(ctx context.Context, req *identity.EnrolRequest) (*identity.EnrolResponse, error) {
	t, err := a.openTicket(req)
	if err != nil {
		return nil, err
	}
	id := t.Identity()
	csr, asked, err := identity.ParseCSR(req.CSR)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "", "%v", err)
	}
	if asked != id {
		return nil, refuse(http.StatusForbidden, "", "the ticket is for %s, the request for %s", id.Short(), asked.Short())
	}
	if err := checkNames(csr, id); err != nil {
		return nil, refuse(http.StatusForbidden, "", "%v", err)
	}
	defer a.names.lock(id)()
	p, err := a.enrol(ctx, t, csr)
	if err != nil {
		return nil, err
	}
	return a.answer(p)
}

// openTicket reads a request's ticket and checks that its holder asks, that this
// authority issued it and that it is not over.
func (a *Authority) openTicket(req *identity.EnrolRequest) (*identity.Ticket, error) {
	t, err := req.Verify()
	if errors.Is(err, identity.ErrProof) {
		return nil, refuse(http.StatusForbidden, "ask with the whole ticket, as it was printed", "%v", err)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "copy the ticket again, whole", "%v", err)
	}
	forged := refuse(http.StatusForbidden, "ask this CA's operator for a ticket", "the ticket is not from this CA")
	if t.TrustDomain != a.keys.trustDomain || t.Kind == identity.Function {
		return nil, forged
	}
	err = errors.New("no signers")
	for _, key := range a.dir.Signers() {
		if err = t.Verify(key); err == nil {
			break
		}
	}
	if err != nil {
		return nil, forged
	}
	if err := t.CheckTime(a.now()); err != nil {
		return nil, refuse(http.StatusForbidden, "", "%v", err)
	}
	return t, nil
}

// enrol decides on a genuine ticket and a checked request. The caller holds the
// name's lock.
func (a *Authority) enrol(ctx context.Context, t *identity.Ticket, csr *x509.CertificateRequest) (directory.Identity, error) {
	id, key := t.Identity(), spkiHash(csr.RawSubjectPublicKeyInfo)
	p, known := a.dir.Identity(id)
	use, used := a.dir.TicketUse(t.ID)
	switch {
	case known && p.State == directory.Revoked:
		return p, a.refusal(p)
	case known && p.State == directory.Active && p.SPKI != key && p.SPKI != [32]byte{}:
		return p, refuse(http.StatusConflict, "to give the name to another key: hpmq device replace "+id.Name,
			"%s is enrolled with another key", id.Short())
	case known && p.State == directory.Active && used && use.SPKI == key:
		return p, nil // asked before; the answer may have been lost
	case a.void(t):
		return p, refuse(http.StatusForbidden, "ask for a new ticket", "the ticket was made void")
	case used && use.Uses >= uint64(t.Uses):
		return p, refuse(http.StatusForbidden, "ask for a new ticket", "the ticket is used up")
	}
	p.ID, p.Labels, p.Site, p.Request = id, t.Labels, a.orOwnSite(t.Site), t.ID
	p, err := a.issue(ctx, p, csr, directory.TicketUse{TicketID: t.ID, ID: id, Uses: use.Uses + 1, SPKI: key})
	if err != nil {
		return p, err
	}
	a.logIssued("identity enrolled", p)
	return p, nil
}

func (a *Authority) logIssued(event string, p directory.Identity) {
	a.log.WithFields(logrus.Fields{
		logfield.SPIFFEID: p.ID.String(), logfield.Site: p.Site, "generation": p.Generation, "not_after": p.NotAfter.UTC(),
	}).Info(event)
}
