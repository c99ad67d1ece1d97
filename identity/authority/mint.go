package authority

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
)

// DefaultTicketLifetime is how long a ticket is good for unless it says so.
const DefaultTicketLifetime = 24 * time.Hour

// Mint completes t, signs it and returns the string to hand out. Kind, Name and
// Addrs must be set; what else is empty gets a default, and the id, the trust
// domain and the pins are always ours.
func (a *Authority) Mint(t *identity.Ticket) (string, error) {
	t.ID = ulid.Make().String()
	t.TrustDomain = a.keys.trustDomain
	t.RootHash = sha256.Sum256(a.keys.root.Raw)
	t.Signer = a.keys.SignerKey()
	t.Site = a.orOwnSite(t.Site)
	if t.NotAfter.IsZero() {
		t.NotAfter = a.now().Add(DefaultTicketLifetime)
	}
	t.NotAfter = t.NotAfter.UTC().Truncate(time.Second)
	t.Uses = max(t.Uses, 1)
	id := t.Identity()
	if t.Kind == identity.Function {
		return "", fmt.Errorf("%s: functions get no tickets", id.Short())
	}
	if p, ok := a.dir.Identity(id); ok && p.State == directory.Revoked {
		return "", a.refusal(p)
	}
	if err := t.Sign(a.keys.signer); err != nil {
		return "", fmt.Errorf("mint ticket: %w", err)
	}
	a.log.WithField(logfield.SPIFFEID, id.String()).WithField("ticket", t.ID).Info("ticket minted")
	return t.String(), nil
}
