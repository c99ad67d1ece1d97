package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy"
)

// The control API: HTTP and JSON on a unix socket in the data directory. Whoever
// can open the socket, which is 0600 in a directory that is 0700, is the
// operator.

const maxControlBody = maxModule*4/3 + 64<<10 // a module in base64

// listenSocket opens a unix socket in dir; a stale one is replaced, since the
// caller holds the data directory's lock.
func listenSocket(dir, name string, mode fs.FileMode) (net.Listener, error) {
	path, done, err := socketPath(dir, name)
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

func (n *node) controlAPI() http.Handler {
	mux := http.NewServeMux()
	handle(mux, "GET /v1/status", func(*http.Request, struct{}) (*statusReply, error) { return n.status(), nil })
	handle(mux, "GET /v1/identities", func(*http.Request, struct{}) ([]identityReply, error) { return n.identities(), nil })
	handle(mux, "POST /v1/tickets", func(_ *http.Request, q ticketRequest) (*ticketReply, error) { return n.mint(q) })
	handle(mux, "POST /v1/identities/{id}/tickets/void", n.voidTickets)
	handle(mux, "POST /v1/identities/{id}/revoke", n.revoke)
	handle(mux, "POST /v1/identities/{id}/replace", n.replace)
	handle(mux, "POST /v1/sites/{site}/remove", n.removeSite)
	handle(mux, "POST /v1/records/await", n.awaitRecorded)
	handle(mux, "GET /v1/clients", func(*http.Request, struct{}) ([]clientReply, error) { return n.clients(), nil })
	handle(mux, "POST /v1/identities/{id}/kick", n.kick)
	handle(mux, "GET /v1/passwords", func(*http.Request, struct{}) ([]passwordReply, error) { return n.listPasswords(), nil })
	handle(mux, "POST /v1/identities/{id}/password", n.setPassword)
	handle(mux, "POST /v1/identities/{id}/password/delete", n.deletePassword)
	handle(mux, "POST /v1/why", func(_ *http.Request, q whyRequest) (*policy.Explanation, error) { return n.why(q) })
	handle(mux, "GET /v1/functions", func(*http.Request, struct{}) ([]functionStatus, error) { return n.functionList(), nil })
	handle(mux, "POST /v1/functions", func(r *http.Request, q functionRequest) (*functionStatus, error) {
		return n.addFunction(r.Context(), q)
	})
	handleLines(mux, "POST /v1/retained", n.retained)
	handle(mux, "POST /v1/retained/clear", n.clearRetained)
	handleLines(mux, "POST /v1/filters", n.filters)
	handle(mux, "POST /v1/receivers", func(_ *http.Request, q topicRequest) (*receiversReply, error) { return n.receivers(q) })
	mux.HandleFunc("POST /v1/backup", n.serveBackup)
	mux.HandleFunc("GET /v1/access/{id}", n.serveAccess)
	return mux
}

// handle registers a question that is answered in JSON.
func handle[Q, A any](mux *http.ServeMux, pattern string, answer func(*http.Request, Q) (A, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if r.Method == http.MethodPost {
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody)).Decode(&q); err != nil {
				refuseControl(w, usagef("malformed request: %v", err))
				return
			}
		}
		a, err := answer(r, q)
		if err != nil {
			refuseControl(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a) // the asker may have left
	})
}

func refuseControl(w http.ResponseWriter, err error) {
	e := controlError{Error: err.Error(), Exit: exitFailure}
	var f *failure
	var api *identity.APIError
	switch {
	case errors.As(err, &f):
		e.Exit, e.Hint = f.code, f.hint
	case errors.As(err, &api):
		e.Hint = api.Hint
		if api.Status == http.StatusConflict || api.Status == http.StatusForbidden {
			e.Exit = exitConflict
		}
	case errors.Is(err, authority.ErrUnknown):
		e.Exit, e.Hint = exitNotFound, "see: hpmq device list"
	}
	status := map[int]int{
		exitUsage: http.StatusBadRequest, exitNotFound: http.StatusNotFound, exitConflict: http.StatusConflict,
		exitDenied: http.StatusForbidden, exitReach: http.StatusServiceUnavailable,
	}[e.Exit]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e)
}

// onCA refuses what only a node with the directory's writer can do.
func (n *node) onCA() error {
	if n.authority != nil {
		return nil
	}
	where := "another node"
	for _, rec := range n.directory.Nodes() {
		if slices.Contains(rec.Roles, roleCA) {
			where = fmt.Sprintf("%s at site %s", rec.ID.Short(), rec.Site)
		}
	}
	return &failure{
		code: exitFailure, err: errors.New("this node is not a certificate authority"),
		hint: "run the same command on " + where,
	}
}

func (n *node) mint(q ticketRequest) (*ticketReply, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	id, err := identity.NewID(n.id.TrustDomain, identity.Kind(q.Kind), q.Name)
	if err != nil {
		return nil, fail(exitUsage, "", err)
	}
	if q.Site != "" && !sitePattern.MatchString(q.Site) {
		return nil, usagef("site %q: want 1-31 of a-z 0-9 -", q.Site)
	}
	ttl, err := time.ParseDuration(q.TTL)
	if err != nil {
		return nil, fail(exitUsage, "", err)
	}
	t := &identity.Ticket{
		Kind: id.Kind, Name: id.Name, Labels: q.Labels, Site: q.Site,
		NotAfter: time.Now().Add(ttl), Uses: 1,
	}
	text, err := n.authority.Mint(t)
	if err != nil {
		return nil, err
	}
	reply := &ticketReply{
		Ticket: text, ID: id.String(), Site: t.Site, Labels: t.Labels, NotAfter: t.NotAfter, Addrs: t.Addrs,
	}
	if t.Kind == identity.Node {
		reply.Warning = n.secondNode(t.Site)
	}
	return reply, nil
}

func (n *node) voidTickets(r *http.Request, _ struct{}) (*voidReply, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	id, err := n.pathID(r)
	if err != nil {
		return nil, err
	}
	if err := n.authority.VoidTickets(id); err != nil {
		return nil, err
	}
	known, _ := n.directory.Identity(id)
	a := &voidReply{ID: id.String(), Enrolled: known.State == directory.Active}
	a.Records = n.directory.Tip().Count
	return a, nil
}

func (n *node) identities() []identityReply {
	sessions, agents := n.sessionsOf(), n.agents()
	out := []identityReply{}
	for p := range n.directory.Identities() {
		_, agent := agents[p.ID]
		out = append(out, identityReply{
			ID: p.ID.String(), Site: p.Site, Labels: p.Labels, State: string(p.State), Generation: p.Generation,
			NotAfter: p.NotAfter, Sessions: sessions[p.ID], Agent: agent,
		})
	}
	slices.SortFunc(out, func(a, b identityReply) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func (n *node) pathID(r *http.Request) (identity.ID, error) {
	text, err := url.PathUnescape(r.PathValue("id"))
	if err != nil {
		return identity.ID{}, fail(exitUsage, "", err)
	}
	id, err := identity.ParseShort(n.id.TrustDomain, text)
	if err != nil {
		return id, fail(exitUsage, "", err)
	}
	return id, nil
}

func (n *node) revoke(r *http.Request, q revokeRequest) (*revokeReply, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	id, err := n.pathID(r)
	if err != nil {
		return nil, err
	}
	if err := n.authority.Revoke(id, authority.RevokeOptions{Reason: q.Reason, ClearRetained: q.ClearRetained}); err != nil {
		return nil, err
	}
	rec, _ := n.directory.Revocation(id)
	known, _ := n.directory.Identity(id)
	a := &revokeReply{ID: id.String(), Generation: rec.Generation, NotAfter: known.NotAfter}
	a.Records = n.directory.Tip().Count
	return a, nil
}

// removeSite ends a site's nodes for good.
func (n *node) removeSite(r *http.Request, _ struct{}) (*removeSiteReply, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	a := &removeSiteReply{Site: r.PathValue("site"), Nodes: []string{}}
	ended, err := n.authority.RemoveSite(a.Site)
	if err != nil {
		return nil, err
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

func (n *node) replace(r *http.Request, _ struct{}) (*replaceReply, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	id, err := n.pathID(r)
	if err != nil {
		return nil, err
	}
	if err := n.authority.Replace(id); err != nil {
		return nil, err
	}
	p, _ := n.directory.Identity(id)
	a := &replaceReply{identityReply: identityReply{ID: id.String(), Site: p.Site, Labels: p.Labels, State: string(p.State), Generation: p.Generation, NotAfter: p.NotAfter}}
	a.Records = n.directory.Tip().Count
	return a, nil
}

// lookup finds an identity's labels and site for policy, whether or not it may
// be used.
func (n *node) lookup(id identity.ID) (policy.Subject, bool) {
	if sub, ok := n.subject(id); ok {
		return sub, true
	}
	p, ok := n.directory.Identity(id)
	return policy.Subject{ID: id, Labels: p.Labels, Site: p.Site, SessionSite: n.site}, ok
}

func (n *node) why(q whyRequest) (*policy.Explanation, error) {
	if name, ok := strings.CutPrefix(q.Who, "site:"); ok {
		return n.whySite(name, q)
	}
	id, err := identity.ParseShort(n.id.TrustDomain, q.Who)
	if err != nil {
		return nil, fail(exitUsage, "", err)
	}
	sub, ok := n.lookup(id)
	if !ok {
		return nil, &failure{
			code: exitNotFound, err: fmt.Errorf("nobody is called %s", id.Short()),
			hint: "see: hpmq device list",
		}
	}
	set := n.policy.Set()
	e, err := set.Explain(sub, q.Action, q.Object, n.lookup)
	if err != nil {
		return nil, fail(exitUsage, "hpmq why pump-7 publish|subscribe TOPIC, or hpmq why user:anna connect pump-7:8080", err)
	}
	if reason := n.barred(id, q); reason != "" {
		return &policy.Explanation{Subject: e.Subject, Action: e.Action, Object: e.Object, Reason: reason, Groups: e.Groups}, nil
	}
	if n.isLocal(id) && !e.Allowed && e.Rule == "" && q.publishes() {
		e.Allowed, e.Reason = true, "who runs a node may publish what no deny forbids, at its site; other sites do not get it: "+e.Reason
		e.Limits = set.Session(sub).Limits().List()
	}
	return &e, nil
}

// whySite says whether a site may receive a message.
func (n *node) whySite(name string, q whyRequest) (*policy.Explanation, error) {
	const usage = "hpmq why site:lyon receive TOPIC"
	set := n.policy.Set()
	sub, err := n.knownSite(name, set)
	switch {
	case err != nil:
		return nil, err
	case q.Action != "receive":
		return nil, fail(exitUsage, usage, errors.New("a site only receives; its devices, users and service:local do the rest"))
	}
	e, err := set.Explain(sub, q.Action, q.Object, n.lookup)
	if err != nil {
		return nil, fail(exitUsage, usage, err)
	}
	if strings.HasPrefix(q.Object, "$") {
		e = policy.Explanation{Subject: e.Subject, Action: e.Action, Object: e.Object, Groups: e.Groups, Reason: "what begins with $ stays at its site"}
	}
	return &e, nil
}

func (q whyRequest) publishes() bool {
	return slices.Contains([]string{"publish", "retain", "will"}, q.Action)
}

// barred says why id may not do here what policy grants, or "".
func (n *node) barred(id identity.ID, q whyRequest) string {
	known, _ := n.directory.Identity(id)
	switch {
	case known.State == directory.Revoked:
		return id.Short() + " is revoked"
	case known.State == directory.Replaced:
		return id.Short() + " gave up its key, and is not enrolled again"
	case id.Kind == identity.Node && known.Site != n.site && q.Action != "connect":
		return fmt.Sprintf("%s is of site %s, and nodes speak at their own site only", id.Short(), known.Site)
	case isMachine(id) && q.Action == "connect":
		return id.Short() + " has no certificate to connect with: use that of hpmq login"
	case q.publishes() && mqtt.ReservedTopic(q.Object):
		return "the topic belongs to the broker"
	}
	return ""
}

func (n *node) addFunction(ctx context.Context, q functionRequest) (*functionStatus, error) {
	if err := n.onCA(); err != nil {
		return nil, err
	}
	if _, err := identity.NewID(n.id.TrustDomain, identity.Function, q.Name); err != nil {
		return nil, fail(exitUsage, "", err)
	}
	if len(q.Module) > maxModule {
		return nil, usagef("module of %d bytes, at most %d", len(q.Module), maxModule)
	}
	m, err := n.engine.Load(ctx, q.Module)
	if err != nil {
		return nil, fail(exitUsage, "", fmt.Errorf("function %s: %w", q.Name, err))
	}
	m.Close(ctx)
	sum, err := n.modules.save(q.Module)
	if err != nil {
		return nil, err
	}
	if _, err := n.directory.Put(directory.Function{Name: q.Name, SHA256: sum, Size: uint64(len(q.Module))}); err != nil {
		return nil, err
	}
	n.swapFunctions(ctx) // now, so that the command's end means that it runs
	for _, f := range n.functionList() {
		if f.Name == q.Name {
			return &f, nil
		}
	}
	return nil, errors.New("the function was recorded but is not listed")
}

func (n *node) functionList() []functionStatus {
	bindings := map[string][]string{}
	for _, b := range n.policy.Set().AllBindings() {
		bindings[b.Function] = append(bindings[b.Function], b.Name)
	}
	faults := map[string]string{}
	if p := n.functionFaults.Load(); p != nil {
		faults = *p
	}
	out := []functionStatus{}
	for name, rec := range n.directory.Functions() {
		fault, tried := faults[name]
		f := functionStatus{
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
	slices.SortFunc(out, func(a, b functionStatus) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// serveAccess turns the request into a carrier to a device: after 101 the
// connection is the device's, and what flows is TLS between the caller and it.
func (n *node) serveAccess(w http.ResponseWriter, r *http.Request) {
	target, err := n.pathID(r)
	if err != nil {
		refuseControl(w, err)
		return
	}
	carrier, err := n.access.Carrier(r.Context(), target)
	if err != nil {
		code := exitReach
		if errors.Is(err, access.ErrNotFound) {
			code = exitNotFound
		}
		refuseControl(w, fail(code, "on the device: hpmq-lite up --expose PORT", err))
		return
	}
	defer carrier.Close()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuseControl(w, err)
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
