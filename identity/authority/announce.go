package authority

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// Bounds on a node's announcement.
const (
	maxAnnounced    = 16
	maxAnnouncedLen = 256
)

// Announce records where the node that peer proved to be is reached, unless
// that is known already. A node speaks for itself, at its home site, and
// cannot make itself a CA. A refusal is an *[identity.APIError].
func (a *Authority) Announce(peer identity.ID, n directory.Node) error {
	defer a.names.lock(peer)()
	p, ok := a.dir.Identity(peer)
	if !ok || p.State != directory.Active {
		return refuse(http.StatusForbidden, "", "%s is not an active identity", peer.Short())
	}
	if err := a.checkAnnounced(p, n); err != nil {
		return refuse(http.StatusForbidden, "", "announcement of %s: %v", peer.Short(), err)
	}
	if old, ok := a.dir.Node(peer); ok && sameNode(old, n) {
		return nil
	}
	if peer != a.node && !a.mayRecord(p) {
		return tooOften(peer)
	}
	if _, err := a.dir.Put(n); err != nil {
		return fmt.Errorf("announce %s: %w", peer.Short(), err)
	}
	return nil
}

func (a *Authority) checkAnnounced(p directory.Identity, n directory.Node) error {
	switch {
	case n.ID != p.ID:
		return fmt.Errorf("it is about %s", n.ID.Short())
	case n.Site != p.Site:
		return fmt.Errorf("its site is %q, not %q", p.Site, n.Site)
	case n.ID != a.node && slices.Contains(n.Roles, "ca"):
		return errors.New("it is no CA")
	}
	for _, list := range [][]string{n.Mesh, n.API, n.MQTT, n.Roles} {
		bad := func(s string) bool { return len(s) > maxAnnouncedLen || strings.ContainsAny(s, "\r\n\x00") }
		if len(list) > maxAnnounced || slices.ContainsFunc(list, bad) {
			return fmt.Errorf("want at most %d addresses of %d characters", maxAnnounced, maxAnnouncedLen)
		}
	}
	return nil
}

func sameNode(x, y directory.Node) bool {
	return x.ID == y.ID && x.Site == y.Site && slices.Equal(x.Mesh, y.Mesh) && slices.Equal(x.API, y.API) &&
		slices.Equal(x.MQTT, y.MQTT) && slices.Equal(x.Roles, y.Roles)
}
