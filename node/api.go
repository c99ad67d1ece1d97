package node

import (
	"encoding/hex"
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

func (n *Node) controlAPI() http.Handler {
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
	control.ListFunctions.Handle(mux, listed(n.functionList))
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

// onCA refuses what only a node with the directory's writer can do.
func (n *Node) onCA() error {
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

// authorityError gives what the authority refuses its code.
func authorityError(err error) error {
	if errors.Is(err, authority.ErrUnknown) {
		return control.Fail(control.NotFound, "see: hpmq device list", err)
	}
	return err
}

func (n *Node) mint(_ *http.Request, q control.TicketRequest) (*control.Ticket, error) {
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

func (n *Node) voidTickets(r *http.Request, _ control.None) (*control.Voided, error) {
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

func (n *Node) identities() []control.Identity {
	sessions, agents := n.sessionsOf(), n.agents()
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

func (n *Node) pathID(r *http.Request) (identity.ID, error) {
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

func (n *Node) revoke(r *http.Request, q control.RevokeRequest) (*control.Revoked, error) {
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
func (n *Node) removeSite(r *http.Request, _ control.None) (*control.RemovedSite, error) {
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

func (n *Node) replace(r *http.Request, _ control.None) (*control.Replaced, error) {
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

func (n *Node) addFunction(r *http.Request, q control.FunctionRequest) (*control.Function, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	if _, err := identity.NewID(n.id.TrustDomain, identity.Function, q.Name); err != nil {
		return nil, control.Fail(control.Invalid, "", err)
	}
	if len(q.Module) > control.MaxModule {
		return nil, control.Invalidf("module of %d bytes, at most %d", len(q.Module), control.MaxModule)
	}
	m, err := n.engine.Load(r.Context(), q.Module)
	if err != nil {
		return nil, control.Fail(control.Invalid, "", fmt.Errorf("function %s: %w", q.Name, err))
	}
	m.Close(r.Context())
	sum, err := n.modules.save(q.Module)
	if err != nil {
		return nil, err
	}
	if _, err := n.directory.Put(directory.Function{Name: q.Name, SHA256: sum, Size: uint64(len(q.Module))}); err != nil {
		return nil, err
	}
	n.swapFunctions(r.Context()) // now, so that the command's end means that it runs
	for _, f := range n.functionList() {
		if f.Name == q.Name {
			return &f, nil
		}
	}
	return nil, errors.New("the function was recorded but is not listed")
}

func (n *Node) functionList() []control.Function {
	bindings := map[string][]string{}
	for _, b := range n.policy.Set().AllBindings() {
		bindings[b.Function] = append(bindings[b.Function], b.Name)
	}
	faults := map[string]string{}
	if p := n.functionFaults.Load(); p != nil {
		faults = *p
	}
	out := []control.Function{}
	for name, rec := range n.directory.Functions() {
		fault, tried := faults[name]
		f := control.Function{
			Name: name, SHA256: hex.EncodeToString(rec.SHA256[:]), Size: int64(rec.Size), Bindings: bindings[name],
			Error: fault, Loaded: tried && fault == "",
		}
		if f.Bindings == nil {
			f.Bindings = []string{}
		}
		for _, s := range n.funcs.Stats() {
			if s.Function == name {
				f.Calls = s.Calls
				for _, count := range s.Faults {
					f.Errors += count
				}
			}
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b control.Function) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// serveAccess turns the request into a carrier to a device: after 101 the
// connection is the device's, and what flows is TLS between the caller and it.
func (n *Node) serveAccess(w http.ResponseWriter, r *http.Request) {
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
