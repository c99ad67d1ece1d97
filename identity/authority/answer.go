package authority

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// maxListed bounds the addresses of each sort in an answer.
const maxListed = 16

// answer is the reply to an enrolment or a renewal.
func (a *Authority) answer(p directory.Identity) (*identity.EnrolResponse, error) {
	chain, err := a.chainOf(p)
	if err != nil {
		return nil, err
	}
	r := &identity.EnrolResponse{
		ID:          p.ID,
		Site:        p.Site,
		Certificate: string(identity.EncodeCertificates(chain...)),
		Roots:       string(identity.EncodeCertificates(a.keys.root)),
		Generation:  p.Generation,
		NotAfter:    chain[0].NotAfter.UTC(),
		ServerTime:  a.now().UTC(),
	}
	at := AddressesOf(Nearest(a.dir, p.ID, p.Site), maxListed)
	r.API, r.MQTT, r.Mesh = at.API, at.MQTT, at.Mesh
	return r, nil
}

// refuse makes the error that a client sees.
func refuse(status int, hint, format string, args ...any) *identity.APIError {
	return &identity.APIError{Status: status, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// refusal is the answer to an identity that is not active.
func (a *Authority) refusal(p directory.Identity) *identity.APIError {
	hint := "an operator may run: hpmq device replace " + p.ID.Name + ", and hand out a new ticket"
	if r, ok := a.dir.Revocation(p.ID); ok && p.State == directory.Revoked && r.Reason != "" {
		return refuse(http.StatusForbidden, hint, "%s is revoked: %s", p.ID.Short(), r.Reason)
	}
	return refuse(http.StatusForbidden, hint, "%s is %s", p.ID.Short(), p.State)
}

// tooOften is the answer to an identity that asks too often for new records about
// itself.
func tooOften(id identity.ID) *identity.APIError {
	return refuse(http.StatusTooManyRequests, "try again in ten minutes", "%s asks too often", id.Short())
}

// isRefusal reports whether err is an answer, as opposed to a failure.
func isRefusal(err error) bool {
	_, ok := errors.AsType[*identity.APIError](err)
	return ok
}
