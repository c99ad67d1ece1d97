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

// ticketAddrs bounds the addresses in a ticket, which people paste.
const ticketAddrs = 8

// Mint completes t, signs it and returns the string to hand out. Kind and Name
// must be set. The id, the trust domain and the pins are always ours; any other empty
// field gets a default. The default of Addrs is the nodes in the directory, the home
// site's first, since each node passes an enrolment on.
func (a *Authority) Mint(t *identity.Ticket) (string, error) {
	t.TrustDomain = a.keys.trustDomain
	t.ID = a.ticketID(t.Identity())
	t.RootHash = sha256.Sum256(a.keys.root.Raw)
	t.Signer = a.keys.SignerKey()
	t.Site = a.orOwnSite(t.Site)
	if len(t.Addrs) == 0 {
		t.Addrs = AddressesOf(Nearest(a.dir, t.Identity(), t.Site), ticketAddrs).API
	}
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

// ticketID makes the id of a new ticket for id. The id's time tells which tickets
// are void, so it lies after the time of the void ones.
func (a *Authority) ticketID(id identity.ID) string {
	at := ulid.Timestamp(a.now())
	if v, ok := a.dir.Void(id); ok {
		at = max(at, ulid.Timestamp(v.Time())+1)
	}
	return ulid.MustNew(at, ulid.DefaultEntropy()).String()
}

// VoidTickets ends every ticket for id that was minted so far and is not used
// up. Certificates are not touched.
func (a *Authority) VoidTickets(id identity.ID) error {
	if id.TrustDomain != a.keys.trustDomain {
		return fmt.Errorf("%w: %s", ErrUnknown, id)
	}
	defer a.names.lock(id)()
	if _, err := a.dir.Put(directory.Void{ID: id, UnixMilli: a.now().UnixMilli()}); err != nil {
		return fmt.Errorf("void the tickets for %s: %w", id.Short(), err)
	}
	a.log.WithField(logfield.SPIFFEID, id.String()).Info("tickets made void")
	return nil
}

// void reports whether t was made void after it was minted.
func (a *Authority) void(t *identity.Ticket) bool {
	v, ok := a.dir.Void(t.Identity())
	if !ok {
		return false
	}
	id, err := ulid.ParseStrict(t.ID)
	return err != nil || id.Time() <= ulid.Timestamp(v.Time())
}
