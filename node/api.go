package node

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy"
)

// listenSocket opens a unix socket in dir; a stale one is replaced, since the
// caller holds the data directory's lock.
func listenSocket(dir, name string, mode fs.FileMode) (net.Listener, error) {
	path, done, err := control.SocketPath(dir, name)
	if err != nil {
		return nil, err
	}
	defer done()
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", filepath.Join(dir, name), err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the path may lead through a descriptor that is closed by then
	return l, os.Chmod(path, mode)
}

// api answers the control API's requests to a node.
type api struct {
	*Node

	backingUp sync.Mutex // one backup at a time
}

func (n *api) handler() http.Handler {
	mux := http.NewServeMux()
	control.GetStatus.Handle(mux, func(*http.Request, control.None) (*control.Status, error) { return n.Status(), nil })
	control.ListIdentities.Handle(mux, listed(n.identities))
	control.MintTicket.Handle(mux, n.mint)
	control.VoidTickets.Handle(mux, n.voidTickets)
	control.Revoke.Handle(mux, n.revoke)
	control.Replace.Handle(mux, n.replace)
	control.RemoveSite.Handle(mux, n.removeSite)
	control.AwaitRecords.Handle(mux, n.awaitRecorded)
	control.ListSessions.Handle(mux, listed(n.clients))
	control.Kick.Handle(mux, n.kick)
	control.ListPasswords.Handle(mux, listed(n.listPasswords))
	control.SetPassword.Handle(mux, n.setPassword)
	control.DeletePassword.Handle(mux, n.deletePassword)
	Why.Handle(mux, func(_ *http.Request, q control.WhyRequest) (*policy.Explanation, error) { return n.why(q) })
	control.ListFunctions.Handle(mux, listed(n.functions.list))
	control.AddFunction.Handle(mux, n.addFunction)
	control.ListRetained.Handle(mux, n.retained)
	control.ClearRetained.Handle(mux, n.clearRetained)
	control.ListFilters.Handle(mux, n.filters)
	control.FindReceivers.Handle(mux, n.receivers)
	mux.HandleFunc("POST "+control.BackupPath, n.serveBackup)
	mux.HandleFunc("GET "+control.AccessPath, n.serveAccess)
	return mux
}

// listed answers a request with all of a list that is short.
func listed[A any](all func() []A) func(control.None) (iter.Seq[A], error) {
	return func(control.None) (iter.Seq[A], error) { return slices.Values(all()), nil }
}

// onCA refuses requests that need the node with the directory's writer.
func (n *api) onCA() error {
	if n.authority != nil {
		return nil
	}
	where := "another node"
	for _, rec := range n.directory.Nodes() {
		if slices.Contains(rec.Roles, roleCA) {
			where = fmt.Sprintf("%s at site %s", rec.ID.Short(), rec.Site)
		}
	}
	return &control.Error{
		Code: control.Failed, Err: errors.New("this node is not a certificate authority"),
		Hint: "run the same command on " + where,
	}
}

// authorityError gives a refusal of the authority its code.
func authorityError(err error) error {
	if errors.Is(err, authority.ErrUnknown) {
		return control.Fail(control.NotFound, "see: hpmq device list", err)
	}
	return err
}

func (n *api) mint(_ *http.Request, q control.TicketRequest) (*control.Ticket, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	id, err := identity.NewID(n.id.TrustDomain, identity.Kind(q.Kind), q.Name)
	if err != nil {
		return nil, control.Fail(control.Invalid, "", err)
	}
	if q.Site != "" && !sitePattern.MatchString(q.Site) {
		return nil, control.Invalidf("site %q: want 1-31 of a-z 0-9 -", q.Site)
	}
	ttl := time.Duration(q.TTL * float64(time.Second))
	if ttl <= 0 {
		return nil, control.Invalidf("a ticket for %s: want a positive duration", ttl)
	}
	t := &identity.Ticket{
		Kind: id.Kind, Name: id.Name, Labels: q.Labels, Site: q.Site,
		NotAfter: time.Now().Add(ttl), Uses: 1,
	}
	text, err := n.authority.Mint(t)
	if err != nil {
		return nil, err
	}
	reply := &control.Ticket{
		Ticket: text, ID: id.String(), Site: t.Site, Labels: t.Labels, NotAfter: t.NotAfter, Addrs: t.Addrs,
	}
	if t.Kind == identity.Node {
		reply.Warning = n.secondNode(t.Site)
	}
	return reply, nil
}

func (n *api) voidTickets(r *http.Request, _ control.None) (*control.Voided, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	id, err := n.pathID(r)
	if err != nil {
		return nil, err
	}
	if err := n.authority.VoidTickets(id); err != nil {
		return nil, authorityError(err)
	}
	known, _ := n.directory.Identity(id)
	a := &control.Voided{ID: id.String(), Enrolled: known.State == directory.Active}
	a.Records = n.directory.Tip().Count
	return a, nil
}

func (n *api) identities() []control.Identity {
	sessions, agents := sessionsOf(n.broker), n.mesh.agents()
	out := []control.Identity{}
	for p := range n.directory.Identities() {
		_, agent := agents[p.ID]
		out = append(out, control.Identity{
			ID: p.ID.String(), Site: p.Site, Labels: p.Labels, State: string(p.State), Generation: p.Generation,
			NotAfter: p.NotAfter, Sessions: sessions[p.ID], Agent: agent,
		})
	}
	slices.SortFunc(out, func(a, b control.Identity) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func (n *api) pathID(r *http.Request) (identity.ID, error) {
	text, err := url.PathUnescape(r.PathValue("id"))
	if err != nil {
		return identity.ID{}, control.Fail(control.Invalid, "", err)
	}
	id, err := identity.ParseShort(n.id.TrustDomain, text)
	if err != nil {
		return id, control.Fail(control.Invalid, "", err)
	}
	return id, nil
}

func (n *api) revoke(r *http.Request, q control.RevokeRequest) (*control.Revoked, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	id, err := n.pathID(r)
	if err != nil {
		return nil, err
	}
	if err := n.authority.Revoke(id, authority.RevokeOptions{Reason: q.Reason, ClearRetained: q.ClearRetained}); err != nil {
		return nil, authorityError(err)
	}
	rec, _ := n.directory.Revocation(id)
	known, _ := n.directory.Identity(id)
	a := &control.Revoked{ID: id.String(), Generation: rec.Generation, NotAfter: known.NotAfter}
	a.Records = n.directory.Tip().Count
	return a, nil
}

// removeSite ends a site's nodes for good.
func (n *api) removeSite(r *http.Request, _ control.None) (*control.RemovedSite, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	a := &control.RemovedSite{Site: r.PathValue("site"), Nodes: []string{}}
	ended, err := n.authority.RemoveSite(a.Site)
	if err != nil {
		return nil, authorityError(err)
	}
	for _, id := range ended {
		a.Nodes = append(a.Nodes, id.Name)
	}
	for p := range n.directory.Identities() {
		if p.ID.Kind != identity.Node && p.Site == a.Site && p.State == directory.Active {
			a.Left++
		}
	}
	a.Records = n.directory.Tip().Count
	return a, nil
}

func (n *api) replace(r *http.Request, _ control.None) (*control.Replaced, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	id, err := n.pathID(r)
	if err != nil {
		return nil, err
	}
	if err := n.authority.Replace(id); err != nil {
		return nil, authorityError(err)
	}
	p, _ := n.directory.Identity(id)
	a := &control.Replaced{Identity: control.Identity{ID: id.String(), Site: p.Site, Labels: p.Labels, State: string(p.State), Generation: p.Generation, NotAfter: p.NotAfter}}
	a.Records = n.directory.Tip().Count
	return a, nil
}

func (n *api) addFunction(r *http.Request, q control.FunctionRequest) (*control.Function, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	if _, err := identity.NewID(n.id.TrustDomain, identity.Function, q.Name); err != nil {
		return nil, control.Fail(control.Invalid, "", err)
	}
	if len(q.Module) > control.MaxModule {
		return nil, control.Invalidf("module of %d bytes, at most %d", len(q.Module), control.MaxModule)
	}
	m, err := n.functions.engine.Load(r.Context(), q.Module)
	if err != nil {
		return nil, control.Fail(control.Invalid, "", fmt.Errorf("function %s: %w", q.Name, err))
	}
	m.Close(r.Context())
	sum, err := n.functions.modules.save(q.Module)
	if err != nil {
		return nil, err
	}
	if _, err := n.directory.Put(directory.Function{Name: q.Name, SHA256: sum, Size: uint64(len(q.Module))}); err != nil {
		return nil, err
	}
	n.functions.swap(r.Context()) // now, so that the command's end means that it runs
	for _, f := range n.functions.list() {
		if f.Name == q.Name {
			return &f, nil
		}
	}
	return nil, errors.New("the function was recorded but is not listed")
}

// serveAccess turns the request into a carrier to a device. After status 101 the
// connection is the device's: it carries TLS between the caller and the device.
func (n *api) serveAccess(w http.ResponseWriter, r *http.Request) {
	target, err := n.pathID(r)
	if err != nil {
		control.Refuse(w, err)
		return
	}
	carrier, err := n.access.Carrier(r.Context(), target)
	if err != nil {
		code := control.Unreachable
		if errors.Is(err, access.ErrNotFound) {
			code = control.NotFound
		}
		control.Refuse(w, control.Fail(code, "on the device: hpmq-lite up --expose PORT", err))
		return
	}
	defer carrier.Close()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		control.Refuse(w, err)
		return
	}
	defer conn.Close()
	_, err = buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: hpmq-access\r\n\r\n")
	if err = errors.Join(err, buffered.Flush()); err != nil || buffered.Reader.Buffered() > 0 {
		return // the caller speaks only after 101
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return
	}
	_ = access.Splice(r.Context(), conn, carrier) // both ends hear of it
}
