package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/identity/password"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/node/trust"
)

// Clients without certificates: a name in this node's password file stands for
// the directory's identity of that name. The entry has the generation that the
// identity had, so that a revocation ends the password as it ends certificates.

func passwordPath(dir string) string { return filepath.Join(dir, "passwords") }

// mayHavePassword refuses identities that prove themselves in other ways.
func mayHavePassword(id identity.ID) error {
	switch {
	case trust.IsMachine(id):
		return control.Invalidf("%s is whoever connects on this machine and has no password", id.Short())
	case id.Kind != identity.Device && id.Kind != identity.Service:
		return control.Invalidf("%s: only devices and services may have a password, others need a certificate", id.Short())
	}
	return nil
}

func (n *api) setPassword(r *http.Request, q control.PasswordRequest) (*control.Password, error) {
	id, err := n.pathID(r)
	if err != nil {
		return nil, err
	}
	if err := mayHavePassword(id); err != nil {
		return nil, err
	}
	if err := password.Check(q.Password); err != nil {
		return nil, control.Fail(control.Invalid, "", err)
	}
	known, err := n.registered(id, q)
	if err != nil {
		return nil, err
	}
	if err := n.passwords.Set(r.Context(), password.Entry{Name: id.Short(), Generation: known.Generation}, q.Password); err != nil {
		return nil, err
	}
	n.log.WithField(logfield.SPIFFEID, id.String()).Info("password set")
	n.broker.Disconnect(id, mqtt.Removal{Code: packet.AdministrativeAction, Reason: "the password was changed"})
	e, _ := n.passwords.Lookup(id.Short())
	return n.passwordReply(id, e), nil
}

// registered returns the identity for which a password shall stand. It records the
// identity if the name is free.
func (n *api) registered(id identity.ID, q control.PasswordRequest) (directory.Identity, error) {
	if n.authority != nil {
		return n.authority.Register(id, q.Labels, q.Site)
	}
	p, ok := n.directory.Identity(id)
	switch {
	case len(q.Labels) > 0 || q.Site != "":
		return p, &control.Error{
			Code: control.Invalid, Err: errors.New("only a certificate authority's node gives labels and a site to a new name"),
			Hint: "set a password with them there, then here without them",
		}
	case !ok || p.State == directory.Replaced:
		return p, control.Fail(control.NotFound, "", fmt.Errorf("nobody is called %s yet: %w", id.Short(), n.onCA()))
	case p.State != directory.Active:
		return p, &control.Error{
			Code: control.Conflict, Err: fmt.Errorf("%s is %s", id.Short(), p.State),
			Hint: "an operator may run, on the CA's node: hpmq device replace " + id.Name,
		}
	}
	return p, nil
}

func (n *api) deletePassword(r *http.Request, _ control.None) (*control.Password, error) {
	id, err := n.pathID(r)
	if err != nil {
		return nil, err
	}
	e, _ := n.passwords.Lookup(id.Short())
	had, err := n.passwords.Delete(id.Short())
	if err != nil {
		return nil, err
	}
	if !had {
		return nil, &control.Error{Code: control.NotFound, Err: fmt.Errorf("%s has no password on this node", id.Short()), Hint: "see: hpmq passwd --list"}
	}
	n.log.WithField(logfield.SPIFFEID, id.String()).Info("password deleted")
	n.broker.Disconnect(id, mqtt.Removal{Code: packet.NotAuthorized, Reason: "the password was deleted"})
	return n.passwordReply(id, e), nil
}

func (n *api) listPasswords() []control.Password {
	all := []control.Password{}
	for _, e := range n.passwords.List() {
		id, err := identity.ParseShort(n.id.TrustDomain, e.Name)
		if err != nil {
			all = append(all, control.Password{ID: e.Name, Set: e.Set, State: "unknown"}) // written by hand
			continue
		}
		all = append(all, *n.passwordReply(id, e))
	}
	return all
}

func (n *api) passwordReply(id identity.ID, e password.Entry) *control.Password {
	a := &control.Password{ID: id.String(), Set: e.Set, State: "unknown"}
	if known, ok := n.directory.Identity(id); ok {
		a.State = string(known.State)
	}
	if n.directory.Revoked(id, e.Generation) {
		a.State = string(directory.Revoked)
	}
	return a
}

// logins lets the password file decide for the broker.
type logins struct{ n *Node }

// Login implements mqtt.Passwords.
func (l logins) Login(ctx context.Context, name string, given []byte, from string) (identity.ID, error) {
	id, err := identity.ParseShort(l.n.id.TrustDomain, name)
	if err != nil || mayHavePassword(id) != nil || id.TrustDomain != l.n.id.TrustDomain {
		id = identity.ID{} // looked for all the same, which takes its time
	}
	e, err := l.n.passwords.Check(ctx, id.Short(), given, limitedAddress(from))
	switch {
	case errors.Is(err, password.ErrOften), errors.Is(err, password.ErrBusy):
		return identity.ID{}, fmt.Errorf("%s: %w: %w", id.Short(), mqtt.ErrTryLater, err)
	case id.IsZero():
		return id, errors.New("a user name that can have no password") // not shown: people type passwords there
	case err != nil:
		return identity.ID{}, fmt.Errorf("%s: %w", id.Short(), err)
	case l.n.directory.Revoked(id, e.Generation):
		return identity.ID{}, fmt.Errorf("%s: revoked after the password was set", id.Short())
	}
	return id, nil
}

// limitedAddress is the key under which failed logins are counted: one IPv4 address,
// or one IPv6 network of 64 bits, since a single host can use all of its addresses.
func limitedAddress(host string) string {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	return netip.PrefixFrom(addr, 64).Masked().String()
}
