package authority

import (
	"context"
	"crypto/x509"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
)

// Renew gives the holder of a current certificate the next one. The request
// proves itself: any party may deliver it. A refusal is an
// *[identity.APIError].
func (a *Authority) Renew(ctx context.Context, req *identity.RenewRequest) (*identity.EnrolResponse, error) {
	chain, csr, err := req.Verify()
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "", "%v", err)
	}
	now := a.now()
	id, err := a.Bundle().Verify(chain, identity.WithinValidity(chain, now), x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, refuse(http.StatusForbidden, "enrol again with a ticket of this CA", "%v", err)
	}
	gen, ok := identity.Generation(chain[0])
	if !ok {
		return nil, refuse(http.StatusBadRequest, "", "certificate without a generation")
	}
	if err := checkNames(csr, id); err != nil {
		return nil, refuse(http.StatusForbidden, "", "%v", err)
	}
	defer a.names.lock(id)()
	p, err := a.renew(ctx, renewal{id: id, generation: gen, leaf: chain[0], csr: csr, request: req.ID, time: req.Time})
	if err != nil {
		return nil, err
	}
	return a.answer(p)
}

// renewal is a request with a signature and chain that were verified.
type renewal struct {
	id         identity.ID
	generation uint64
	leaf       *x509.Certificate
	csr        *x509.CertificateRequest
	request    string
	time       time.Time // by the asker's clock
}

// clockSkew is how far two clocks may be apart before it is worth a word.
const clockSkew = 5 * time.Minute

// renew decides on a genuine request. The caller holds the name's lock.
func (a *Authority) renew(ctx context.Context, r renewal) (directory.Identity, error) {
	p, known := a.dir.Identity(r.id)
	switch {
	case !known:
		return p, refuse(http.StatusForbidden, "enrol again with a new ticket", "%s is not in the directory", r.id.Short())
	case p.State != directory.Active:
		return p, a.refusal(p)
	case a.dir.Revoked(r.id, r.generation):
		return p, refuse(http.StatusForbidden, "enrol again with a new ticket", "this certificate of %s is revoked", r.id.Short())
	case p.Generation == r.generation+1 && p.Request == r.request:
		return p, nil // asked before; the answer may have been lost
	case p.Generation > r.generation:
		return p, a.clone(r, p)
	case p.Generation < r.generation || p.SPKI != spkiHash(r.leaf.RawSubjectPublicKeyInfo):
		// Signed by our root, yet not recorded: the directory was restored from
		// an old backup, or the CA's key is in other hands.
		a.log.WithFields(r.fields()).Error("renewal of a certificate that the directory has no record of")
		return p, refuse(http.StatusForbidden, "tell the CA's operator; then enrol again with a new ticket",
			"the certificate of %s is not the one on record", r.id.Short())
	}
	if err := a.checkExpired(r, p); err != nil {
		return p, err
	}
	if !a.mayRecord(p) {
		return p, tooOften(r.id)
	}
	if off := a.now().Sub(r.time); !r.time.IsZero() && off.Abs() > clockSkew {
		a.log.WithFields(r.fields()).WithField("behind", off.Round(time.Second).String()).
			Warn("the clock of the machine that asks for a renewal differs from this one's")
	}
	p.Request = r.request
	p, err := a.issue(ctx, p, r.csr)
	if err != nil {
		return p, err
	}
	a.logIssued("certificate renewed", p)
	return p, nil
}

// checkExpired lets an expired certificate renew within the grace and with its
// own key: a fresh key would let a thief of an old one in for good.
func (a *Authority) checkExpired(r renewal, p directory.Identity) error {
	late := a.now().Sub(r.leaf.NotAfter)
	switch {
	case late <= 0:
		return nil
	case r.id.Kind == identity.User:
		return refuse(http.StatusForbidden, "log in again: hpmq login with a ticket from hpmq user add "+r.id.Name,
			"the certificate of %s ended on %s, and users' are not renewed afterwards", r.id.Short(), r.leaf.NotAfter.UTC().Format("2006-01-02 15:04"))
	case late > a.graceOf(p):
		return refuse(http.StatusForbidden, "an operator may run: hpmq device replace "+r.id.Name+", and hand out a new ticket",
			"the certificate of %s ended on %s, longer ago than the grace", r.id.Short(), r.leaf.NotAfter.UTC().Format("2006-01-02"))
	case !sameKey(r.leaf.RawSubjectPublicKeyInfo, r.csr.RawSubjectPublicKeyInfo):
		return refuse(http.StatusForbidden, "renew with the key of the expired certificate",
			"the certificate of %s has expired, a new key is not accepted", r.id.Short())
	}
	return nil
}

// clone raises the alarm: the generation was spent by another request, so two
// parties hold the key.
func (a *Authority) clone(r renewal, p directory.Identity) error {
	a.clones.Add(1)
	a.log.WithFields(r.fields()).WithField("current", p.Generation).
		Warn("clone alarm: a certificate that was renewed already asks again")
	return refuse(http.StatusConflict, "if this device is the real one, an operator may run: hpmq device replace "+r.id.Name,
		"the certificate of %s was renewed before by somebody with the same key", r.id.Short())
}

func (r renewal) fields() logrus.Fields {
	return logrus.Fields{logfield.SPIFFEID: r.id.String(), "generation": r.generation}
}
