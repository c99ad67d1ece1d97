package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/hpmq/hpmq/funcs"
	"github.com/hpmq/hpmq/funcs/wasm"
	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/identity/password"
	"github.com/hpmq/hpmq/internal/port"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/link"
	"github.com/hpmq/hpmq/mqtt/quic"
	"github.com/hpmq/hpmq/mqtt/store/durable"
	"github.com/hpmq/hpmq/mqtt/websocket"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/node/trust"
	"github.com/hpmq/hpmq/overlay"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/overlay/gossip"
	"github.com/hpmq/hpmq/policy"
)

// Node is one running node: every part, and the state that the parts share.
type Node struct {
	cfg     *Options
	log     logrus.FieldLogger
	lock    *os.File
	started time.Time

	id        identity.ID
	site      string
	bootstrap []string // mesh addresses to begin with
	fresh     bool     // the data directory is new

	store     *identity.Store // this node
	user      *identity.Store // the operator, if one logged in here
	directory *directory.Directory
	authority *authority.Authority // nil on nodes that are not a CA
	relay     *authority.Relay     // the way to one
	offline   *offline

	certificates certificates
	policy       *policy.Live
	policySince  atomic.Pointer[time.Time]
	policyError  atomic.Pointer[string] // why the newest files are not in force
	changes      *changes

	overlay    *overlay.Node
	mesh       *mesh
	gossip     *gossip.Gossip
	access     *access.Relay
	rulebook   *rulebook // nil on nodes that do not hold the directory's writer
	agentRules *agentRules
	messages   *durable.Store
	passwords  *password.Book
	broker     *mqtt.Broker
	links      *link.Links
	trust      *trust.Site
	foreign    *trust.Foreign // judges the messages of other sites
	filter     *filter
	functions  *functions

	plain, unix, tlsPort, webSocket, web, control net.Listener
	quic                                          *quic.Listener
}

// New opens the files and sockets of a node and fits its parts together. It starts
// nothing but the questions that a new identity needs, and the first New of a data
// directory makes that identity: as a new fabric, or with the ticket in o.Join. The
// caller calls Close.
func New(ctx context.Context, o Options) (_ *Node, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	n := &Node{cfg: &o, log: o.Log, started: time.Now(), changes: newChanges()}
	n.certificates = certificates{func() *policy.Set {
		if n.policy == nil {
			return nil
		}
		return n.policy.Set()
	}}
	if n.lock, err = lockDataDir(o.DataDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if err := n.listen(); err != nil { // first: a port in use must not cost a new fabric
		return nil, err
	}
	if err := n.setUp(ctx); err != nil {
		return nil, err
	}
	n.log = n.log.WithField("node", n.id.Name)
	n.trust = &trust.Site{TrustDomain: n.id.TrustDomain, Name: n.site, Identity: n.directory.Identity}
	n.offline = newOffline(n.directory, o.OfflineMax, n.certificates.maxStale)
	if err := n.openOverlay(); err != nil {
		return nil, err
	}
	if err := n.openMessages(); err != nil {
		return nil, err
	}
	if err := n.openFunctions(ctx); err != nil {
		return nil, err
	}
	if err := n.openBroker(); err != nil {
		return nil, err
	}
	return n, n.openQUIC()
}

func (n *Node) listen() (err error) {
	for _, l := range []struct {
		to         *net.Listener
		name, host string
		port       int
	}{
		{&n.plain, control.ListenerPlain, "127.0.0.1", portPlain},
		{&n.tlsPort, control.ListenerTLS, "", portTLS},
		{&n.webSocket, control.ListenerWebSocket, "", portWeb},
		{&n.web, control.ListenerHTTP, "127.0.0.1", portHTTP},
	} {
		number := l.port + n.cfg.Shift
		if *l.to, err = net.Listen("tcp", net.JoinHostPort(l.host, strconv.Itoa(number))); err != nil {
			return n.cfg.listenError(l.name, number, err)
		}
	}
	if err := n.cfg.probeOverlay(); err != nil {
		return err
	}
	if n.control, err = listenSocket(n.cfg.DataDir, control.SocketName, 0o600); err != nil {
		return err
	}
	// The permissions of the data directory say which users reach the socket. The user at
	// the other end says which rights a connection has.
	n.unix, err = listenSocket(n.cfg.DataDir, MQTTSocketName, 0o666)
	return err
}

func (n *Node) openQUIC() (err error) {
	number := portQUIC + n.cfg.Shift
	conf := identity.ServerConfig(n.store, []string{"mqtt"}, tls.RequireAnyClientCert, identity.Revoked(n.revoked), identity.ServeEnded(n.offline.serves))
	gate := n.broker.NewGate()
	n.quic, err = quic.Listen(net.JoinHostPort("", strconv.Itoa(number)), conf, quic.Options{
		Log: n.log, Admits: func(remote net.Addr) bool { return gate.Admits(remote, nil) },
	})
	if err != nil {
		return n.cfg.listenError(control.ListenerQUIC, number, err)
	}
	return nil
}

func (n *Node) openOverlay() (err error) {
	number := portOverlay + n.cfg.Shift
	resetKey, err := loadResetKey(n.cfg.DataDir)
	if err != nil {
		return err
	}
	n.overlay, err = overlay.New(overlay.Options{
		Source: n.store, Listen: net.JoinHostPort("", strconv.Itoa(number)), Log: n.log,
		Revoked: n.revoked, ServeEnded: n.offline.serves, Accept: n.acceptPeer, Authorizer: protocols{},
		ResetKey: resetKey,
	})
	if err != nil {
		return n.cfg.listenError(control.ListenerOverlay, number, err)
	}
	n.mesh = &mesh{id: n.id, overlay: n.overlay, directory: n.directory, bootstrap: n.bootstrap, log: n.log}
	n.relay = &authority.Relay{Open: n.mesh.askCA, Bundle: n.store.Bundle}
	n.access = access.NewRelay(access.RelayOptions{Node: n.overlay, Log: n.log})
	n.agentRules, err = newAgentRules(filepath.Join(n.cfg.DataDir, rulesDirName), n.directory.Root(), n.log)
	if err != nil {
		return control.Fail(control.Failed, "make room there, or choose another directory: --data DIR", err)
	}
	n.overlay.Handle(access.Protocol, n.access.Handle)
	n.overlay.Handle(protocolDirectory, n.mesh.serveDirectory)
	n.overlay.Handle(link.Protocol, n.serveLink)
	if n.authority != nil {
		n.overlay.Handle(protocolEnrol, n.serveCA)
		n.rulebook = newRulebook(n.directory, func() *policy.Set { return n.policy.Set() }, n.log)
		n.overlay.Handle(protocolRules, n.rulebook.handle)
	}
	n.gossip, err = gossip.New(gossip.Options{Node: n.overlay, Site: n.site, Log: n.log, Known: n.trust.KnownNode})
	return err
}

// openFunctions makes the runtime without functions; they come with the policy.
func (n *Node) openFunctions(ctx context.Context) error {
	engine, err := wasm.NewEngine(ctx, wasm.Options{CacheDir: filepath.Join(n.cfg.DataDir, "cache", "wasm")})
	if err != nil {
		return fmt.Errorf("functions: %w", err)
	}
	if engine.Mode() != wasm.ModeCompiler {
		n.log.Warn("functions run in the interpreter, several times slower: this system forbids compiled code or has no compiler")
	}
	n.functions = &functions{
		domain: n.id.TrustDomain, site: n.site, modules: &modules{dir: filepath.Join(n.cfg.DataDir, "functions")},
		mesh: n.mesh, directory: n.directory, policy: func() *policy.Set { return n.policy.Set() }, log: n.log, engine: engine,
		runtime: funcs.New(funcs.Options{Engine: engine, KV: remembered{n.messages}, Log: n.log}),
		swapped: func() {
			n.filter.reset()
			n.broker.Reroute()
		},
	}
	n.overlay.Handle(protocolModule, n.functions.modules.serve)
	return nil
}

func (n *Node) openMessages() (err error) {
	n.messages, err = durable.Open(filepath.Join(n.cfg.DataDir, "messages"), durable.Options{
		Limits: n.cfg.Limits.Store, MaxDisk: n.cfg.Limits.MaxDisk, Log: n.log,
	})
	switch {
	case errors.Is(err, durable.ErrDamaged):
		return control.Fail(control.Failed, "restore that directory from a backup, or move it away to begin without what it holds", err)
	case err != nil:
		return control.Fail(control.Failed, "make room there, or choose another directory: --data DIR", err)
	}
	return nil
}

func (n *Node) openBroker() (err error) {
	if n.passwords, err = password.Open(passwordPath(n.cfg.DataDir), n.log); err != nil {
		return control.Fail(control.Failed, "correct the file, or move it away and set the passwords again", err)
	}
	options := policy.LiveOptions{TrustDomain: n.id.TrustDomain, OnChange: n.policyChanged, OnReject: n.policyRejected}
	if n.authority != nil {
		options.Dir, options.Record = PolicyDir(n.cfg.DataDir), n.recordPolicy
	}
	n.policy = policy.NewLive(options)
	n.foreign = newForeign(n)
	n.applyPolicy() // by which the broker judges the sessions that the store kept
	n.filter = newFilter(n)
	n.links = link.New(link.Options{
		Receives:       trust.NewReceivers(n.policy.Set).Receives,
		RefusesUnknown: func() bool { return n.policy.Set().OnUnknownSite() == policy.RefuseUnknown },
		Site:           n.site, Store: n.messages, Dialer: linkDialer{n.overlay}, Peers: n.linkPeers, Changed: n.changes.sites.Wait,
		Accept: n.acceptForeign, Stays: n.foreign.Stays, Log: n.log,
	})
	o := n.cfg.Limits.Broker
	o.Store, o.Authorizer, o.Passwords, o.Filter, o.Forwarder = n.messages, newAuthorizer(n), logins{n}, n.filter, n.links
	o.Renewer, o.Outlives = renewer{n.store.Bundle, n.revoked}, n.offline.outlives
	o.Log, o.Version = n.log, "hpmq "+n.cfg.Version
	o.ServerReference = n.cfg.ServerReference
	o.Memory = memoryCeiling(o.Memory, n.log)
	n.broker = mqtt.New(o)
	return nil
}

// DataDir is the absolute path of the node's data directory.
func (n *Node) DataDir() string { return n.cfg.DataDir }

// Fresh reports whether New began with an empty data directory.
func (n *Node) Fresh() bool { return n.fresh }

// Run serves until ctx is done or a part fails; ready is called when clients
// can connect. No part outlives Run.
func (n *Node) Run(ctx context.Context, ready func()) error {
	// The mesh ends after everything that says goodbye over it, and the store
	// after everything that still keeps something.
	meshCtx, endMesh := context.WithCancel(context.WithoutCancel(ctx))
	defer endMesh()
	mesh := errgroup.Group{}
	mesh.Go(func() error { return n.overlay.Run(meshCtx) })
	mesh.Go(func() error { return n.messages.Run(meshCtx) })

	g, ctx := errgroup.WithContext(ctx)
	run := func(what string, f func(context.Context) error) {
		g.Go(func() error {
			if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		})
	}
	from := n.directory.Tip().Count
	n.functions.swap(ctx) // before the first message, which would find no function
	run("functions", n.functions.runtime.Run)
	if err := n.serveClients(run); err != nil {
		g.Go(func() error { return err })
	}
	run("directory", func(ctx context.Context) error { return n.watchDirectory(ctx, from) })
	run("policy", n.policy.Run)
	run("rights", n.applyRights)
	run("function changes", n.applyFunctions)
	run("clean-up", n.cleaner().run)
	run("gossip", n.gossip.Run)
	run("mesh peers", n.mesh.keepPeers)
	run("mesh changes", func(ctx context.Context) error { return n.mesh.relayChanges(ctx, n.changes.sites.Fire) })
	run("links", func(ctx context.Context) error { return n.links.Run(ctx, n.broker) })
	run("renewal", n.renew)
	run("offline rule", n.offline.run)
	run("rules of agents", n.followRules)
	run("slices", (&slicePusher{n.mesh, n.agentRules}).run)
	run("agents", func(ctx context.Context) error {
		return n.mesh.rememberAgents(ctx, filepath.Join(n.cfg.DataDir, agentsName))
	})
	if n.authority != nil {
		run("directory head", n.directory.Run)
	} else {
		run("replication", n.mesh.replicate)
		run("site ticket", n.mesh.dialBootstrap)
		run("announcement", n.announceAddresses)
	}
	remove, err := control.Announce(n.cfg.DataDir, n.id.Name)
	if err != nil {
		n.log.WithError(err).Warn("other commands will need --data " + n.cfg.DataDir)
	} else {
		defer remove()
	}
	ready()
	err = g.Wait()
	endMesh()
	return errors.Join(err, mesh.Wait())
}

// serveClients runs the listeners.
func (n *Node) serveClients(run func(string, func(context.Context) error)) error {
	tlsPort := n.openPort(n.tlsPort, control.ListenerTLS, port.Options{MQTT: true}, "mqtt", "http/1.1")
	webPort := n.openPort(n.webSocket, control.ListenerWebSocket, port.Options{PlainHTTP: true}, "http/1.1")
	web, err := websocket.New(websocket.Options{Addr: n.webSocket.Addr(), Origins: n.cfg.Origins, Log: n.log})
	if err != nil {
		return err
	}
	run("broker", n.broker.Run)
	run("TLS port", tlsPort.Run)
	run("WebSocket port", webPort.Run)
	run("MQTT", func(ctx context.Context) error { return n.broker.Serve(ctx, n.plain, n.admitPlain) })
	run("MQTT at the unix socket", func(ctx context.Context) error { return n.broker.Serve(ctx, n.unix, n.admitPlain) })
	run("MQTT over TLS", func(ctx context.Context) error { return n.broker.Serve(ctx, tlsPort.MQTT(), n.admitTLS) })
	run("WebSocket listener", func(ctx context.Context) error { return port.ServeHTTP(ctx, webPort.HTTP(), web) })
	run("MQTT over WebSocket", func(ctx context.Context) error { return n.broker.Serve(ctx, web, n.admitTLS) })
	run("MQTT over QUIC", func(ctx context.Context) error { return n.broker.Serve(ctx, n.quic, n.admitTLS) })
	var backend authority.Backend = n.relay
	if n.authority != nil {
		backend = n.authority
	}
	run("enrolment API", func(ctx context.Context) error {
		return port.ServeHTTP(ctx, tlsPort.HTTP(), authority.Handler(backend, n.log))
	})
	run("control API", func(ctx context.Context) error { return port.ServeHTTP(ctx, n.control, (&api{Node: n}).handler()) })
	run("metrics", func(ctx context.Context) error { return port.ServeHTTP(ctx, n.web, n.webAPI()) })
	return nil
}

// openPort makes the TLS of a port that other machines reach.
func (n *Node) openPort(l net.Listener, name string, o port.Options, alpn ...string) *port.Port {
	conf := identity.ServerConfig(n.store, alpn, tls.RequestClientCert, identity.Revoked(n.revoked), identity.ServeEnded(n.offline.serves), identity.AllowTLS12)
	conf.DynamicRecordSizingDisabled = true // whole records: a flush has all that was gathered
	o.Log, o.Proxies, o.Admits = n.log, n.cfg.Proxies[name], n.broker.NewGate().Admits
	return port.New(l, conf, o)
}

// Close releases everything that New opened. Run must have ended.
func (n *Node) Close() {
	for _, l := range []net.Listener{n.plain, n.unix, n.tlsPort, n.webSocket, n.web, n.control} {
		if l != nil {
			l.Close()
		}
	}
	if n.quic != nil {
		n.quic.Close()
	}
	if n.overlay != nil {
		n.overlay.Close()
	}
	if n.functions != nil {
		_ = n.functions.engine.Close(context.Background()) //nolint:contextcheck,forbidigo // nothing waits for it any more
	}
	if n.messages != nil {
		if err := n.messages.Close(); err != nil {
			n.log.WithError(err).Warn("message store not closed cleanly")
		}
	}
	if n.directory != nil {
		n.directory.Close()
	}
	n.lock.Close()
}

// listeners lists the listeners and their addresses.
func (n *Node) listeners() []control.Listener {
	return []control.Listener{
		{Name: control.ListenerPlain, Address: n.plain.Addr().String(), Note: "plain, this machine only: you are service:local"},
		{Name: control.ListenerUnix, Address: filepath.Join(n.cfg.DataDir, MQTTSocketName), Note: "the same, as a unix socket"},
		{Name: control.ListenerTLS, Address: n.tlsPort.Addr().String(), Note: "MQTT over TLS with a client certificate or a password; enrolment"},
		{Name: control.ListenerWebSocket, Address: n.webSocket.Addr().String(), Note: "MQTT over WebSocket, at /mqtt, with a client certificate or a password"},
		{Name: control.ListenerQUIC, Address: n.quic.Addr().String(), Note: "MQTT over QUIC (UDP) with a client certificate"},
		{Name: control.ListenerOverlay, Address: n.overlay.Addr().String(), Note: "mesh, UDP, reached by others at " + n.cfg.advertised(portOverlay)},
		{Name: control.ListenerHTTP, Address: n.web.Addr().String(), Note: "/metrics /healthz /readyz, this machine only"},
	}
}
