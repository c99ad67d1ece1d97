package authority

import (
	"fmt"
	"maps"
	"net/http"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
)

// Register records an identity that has no key, for a client that cannot have a
// certificate, and returns what is recorded. One that is there already stays as
// it is: then labels must be nil or its own. An empty site means Options.Site. A
// ticket may give the name a key later. A name that was revoked is refused until
// it is replaced, and a replaced one gets its next generation.
func (a *Authority) Register(id identity.ID, labels map[string]string, site string) (directory.Identity, error) {
	if id.Kind != identity.Device && id.Kind != identity.Service {
		return directory.Identity{}, fmt.Errorf("%s: only devices and services may be without a certificate", id.Short())
	}
	defer a.names.lock(id)()
	p, known := a.dir.Identity(id)
	switch {
	case known && p.State == directory.Revoked:
		return p, a.refusal(p)
	case known && p.State == directory.Active:
		if len(labels) > 0 && !maps.Equal(labels, p.Labels) || site != "" && site != p.Site {
			return p, refuse(http.StatusConflict, "leave out labels and site: "+id.Short()+" keeps those it has",
				"%s is known with other labels or at another site", id.Short())
		}
		return p, nil
	}
	p = directory.Identity{ID: id, Labels: labels, Site: a.orOwnSite(site), State: directory.Active, Generation: p.Generation + 1}
	if _, err := a.dir.Put(p); err != nil {
		return p, fmt.Errorf("register %s: %w", id.Short(), err)
	}
	a.log.WithField(logfield.SPIFFEID, id.String()).WithField(logfield.Site, p.Site).Info("identity registered without a certificate")
	return p, nil
}
