package authority

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// maxListed bounds the addresses of each sort in an answer.
const maxListed = 16

// answer is what an identity hears on enrolment and renewal.
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
	for _, n := range a.nodesFor(p) {
		r.API = addUpTo(maxListed, r.API, n.API)
		r.MQTT = addUpTo(maxListed, r.MQTT, n.MQTT)
		r.Mesh = addUpTo(maxListed, r.Mesh, n.Mesh)
	}
	return r, nil
}

// nodesFor returns the nodes in the order in which p should try them: those of
// its home site, this one, the others.
func (a *Authority) nodesFor(p directory.Identity) []directory.Node {
	nodes := slices.DeleteFunc(a.dir.Nodes(), func(n directory.Node) bool {
		known, ok := a.dir.Identity(n.ID)
		return n.ID == p.ID || !ok || known.State != directory.Active
	})
	rank := func(n directory.Node) int {
		switch {
		case n.Site == p.Site:
			return 0
		case n.ID == a.node:
			return 1
		}
		return 2
	}
	slices.SortFunc(nodes, func(x, y directory.Node) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x.ID.Name, y.ID.Name))
	})
	return nodes
}

func addUpTo(limit int, list, more []string) []string {
	for _, s := range more {
		if len(list) < limit && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
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

// tooOften is the answer to who has its own records changed again and again.
func tooOften(id identity.ID) *identity.APIError {
	return refuse(http.StatusTooManyRequests, "try again in ten minutes", "%s asks too often", id.Short())
}

// isRefusal reports whether err is an answer, as opposed to a failure.
func isRefusal(err error) bool {
	_, ok := errors.AsType[*identity.APIError](err)
	return ok
}
