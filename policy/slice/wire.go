package slice

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"github.com/hpmq/hpmq/identity"
)

// Bounds on a signed slice.
const (
	MaxBytes   = 4 << 20 // of the signed form
	maxRules   = 10_000
	maxCallers = 100_000 // of all rules together
	maxPorts   = 10_000  // likewise
	maxCite    = 512
	maxNodes   = 1024
	maxRevoked = 4096
	maxAddrs   = 16 // of one sort at one node
	maxAddr    = 300
	maxSite    = 64
)

// wireHeader is the payload of the writer's statement. Identities are kind:name
// inside one trust domain.
type wireHeader struct {
	TrustDomain string   `cbor:"1,keyasint"`
	Target      string   `cbor:"2,keyasint"`
	Issued      uint64   `cbor:"3,keyasint"`
	Until       int64    `cbor:"4,keyasint"` // Unix milliseconds
	Rules       [32]byte `cbor:"5,keyasint"` // SHA-256
	Fabric      [32]byte `cbor:"6,keyasint"`
}

type wireRules struct {
	Rules []wireRule `cbor:"1,keyasint"`
}

type wireRule struct {
	_       struct{} `cbor:",toarray"`
	Cite    string
	Deny    bool
	Callers []string
	Ports   []wirePorts
}

type wirePorts struct {
	_           struct{} `cbor:",toarray"`
	Network     string
	First, Last uint16
}

type wireFabric struct {
	Nodes   []wireNode    `cbor:"1,keyasint"`
	Revoked []wireRevoked `cbor:"2,keyasint"`
}

type wireNode struct {
	_    struct{} `cbor:",toarray"`
	Name string
	Site string
	CA   bool
	API  []string
	MQTT []string
	Mesh []string
	Key  [32]byte
}

type wireRevoked struct {
	_          struct{} `cbor:",toarray"`
	Name       string
	Generation uint64
}

// wireSigned is the form of a slice on the wire and on disk.
type wireSigned struct {
	Statement []byte `cbor:"1,keyasint"` // over a wireHeader
	Rules     []byte `cbor:"2,keyasint"` // a wireRules
	Fabric    []byte `cbor:"3,keyasint"` // a wireFabric
}

var (
	encoder = mode(cbor.CoreDetEncOptions().EncMode())
	decoder = mode(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, MaxNestedLevels: 8, MaxArrayElements: 131072, MaxMapPairs: 16,
	}.DecMode())
)

// mode unwraps a codec made from constants: an error is a bug in this file.
func mode[M any](m M, err error) M {
	if err != nil {
		panic(err)
	}
	return m
}

var errNotCanonical = errors.New("not in canonical form")

// decodeAs reads the canonical form of a T.
func decodeAs[T any](b []byte) (w T, err error) {
	if err := decoder.Unmarshal(b, &w); err != nil {
		return w, err
	}
	if again, err := encoder.Marshal(w); err != nil || !bytes.Equal(again, b) {
		return w, errNotCanonical
	}
	return w, nil
}

func encodeRules(domain string, rules []Rule) ([]byte, error) {
	w := wireRules{Rules: []wireRule{}}
	callers, ports := 0, 0
	for _, r := range rules {
		callers, ports = callers+len(r.Callers), ports+len(r.Ports)
		wr := wireRule{Cite: clipCite(r.Cite), Deny: r.Deny, Callers: make([]string, 0, len(r.Callers)), Ports: []wirePorts{}}
		for _, c := range r.Callers {
			if c.TrustDomain != domain {
				return nil, fmt.Errorf("caller %s is not of trust domain %s", c, domain)
			}
			wr.Callers = append(wr.Callers, c.Short())
		}
		for _, p := range r.Ports {
			wr.Ports = append(wr.Ports, wirePorts{Network: p.Network, First: p.First, Last: p.Last})
		}
		w.Rules = append(w.Rules, wr)
	}
	if len(rules) > maxRules || callers > maxCallers || ports > maxPorts {
		return nil, fmt.Errorf("%d rules with %d callers and %d ports, at most %d, %d and %d: let fewer grants name the target",
			len(rules), callers, ports, maxRules, maxCallers, maxPorts)
	}
	return encoder.Marshal(w)
}

func clipCite(s string) string {
	if len(s) > maxCite {
		s = s[:maxCite]
	}
	return strings.ToValidUTF8(s, "")
}

func decodeRules(domain string, b []byte) ([]Rule, error) {
	w, err := decodeAs[wireRules](b)
	if err != nil {
		return nil, err
	}
	if len(w.Rules) > maxRules {
		return nil, fmt.Errorf("%d rules, at most %d", len(w.Rules), maxRules)
	}
	var rules []Rule
	callers, ports := 0, 0
	for _, wr := range w.Rules {
		callers, ports = callers+len(wr.Callers), ports+len(wr.Ports)
		if callers > maxCallers || ports > maxPorts || len(wr.Cite) > maxCite {
			return nil, errors.New("too many callers or ports")
		}
		r, err := wr.rule(domain)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func (wr *wireRule) rule(domain string) (Rule, error) {
	r := Rule{Cite: wr.Cite, Deny: wr.Deny}
	for _, c := range wr.Callers {
		id, err := parseShort(domain, c)
		if err != nil {
			return r, fmt.Errorf("caller: %w", err)
		}
		r.Callers = append(r.Callers, id)
	}
	for _, p := range wr.Ports {
		if p.Network != "tcp" && p.Network != "udp" || p.First > p.Last {
			return r, fmt.Errorf("ports %q %d-%d are malformed", p.Network, p.First, p.Last)
		}
		r.Ports = append(r.Ports, PortRange{Network: p.Network, First: p.First, Last: p.Last})
	}
	return r, nil
}

func encodeFabric(domain string, nodes []Node, revoked []Revoked) ([]byte, error) {
	w := wireFabric{Nodes: []wireNode{}, Revoked: []wireRevoked{}}
	for _, n := range nodes {
		if n.ID.TrustDomain != domain || n.ID.Kind != identity.Node {
			return nil, fmt.Errorf("%s is no node of trust domain %s", n.ID, domain)
		}
		w.Nodes = append(w.Nodes, wireNode{Name: n.ID.Name, Site: n.Site, CA: n.CA, API: soundAddrs(n.API), MQTT: soundAddrs(n.MQTT), Mesh: soundAddrs(n.Mesh), Key: n.Key})
	}
	for _, r := range revoked {
		if r.ID.TrustDomain != domain || r.ID.Kind != identity.Node {
			return nil, fmt.Errorf("%s is no node of trust domain %s", r.ID, domain)
		}
		w.Revoked = append(w.Revoked, wireRevoked{Name: r.ID.Name, Generation: r.Generation})
	}
	return encoder.Marshal(w)
}

// soundAddrs returns the addresses that a reader takes. A node announces its
// addresses itself, so they may be anything.
func soundAddrs(list []string) []string {
	sound := []string{}
	for _, addr := range list {
		if len(sound) < maxAddrs && soundAddr(addr) {
			sound = append(sound, addr)
		}
	}
	return sound
}

func soundAddr(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	return err == nil && host != "" && port != "" && len(addr) <= maxAddr && utf8.ValidString(addr)
}

func decodeFabric(domain string, b []byte) (nodes []Node, revoked []Revoked, err error) {
	w, err := decodeAs[wireFabric](b)
	if err != nil {
		return nil, nil, err
	}
	if len(w.Nodes) > maxNodes || len(w.Revoked) > maxRevoked {
		return nil, nil, fmt.Errorf("%d nodes and %d revoked, at most %d and %d", len(w.Nodes), len(w.Revoked), maxNodes, maxRevoked)
	}
	for i, wn := range w.Nodes {
		n, err := wn.node(domain)
		if err != nil {
			return nil, nil, err
		}
		if i > 0 && compareIDs(nodes[i-1].ID, n.ID) >= 0 {
			return nil, nil, errNotCanonical
		}
		nodes = append(nodes, n)
	}
	for i, wr := range w.Revoked {
		id, err := identity.NewID(domain, identity.Node, wr.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("revoked: %w", err)
		}
		if i > 0 && compareIDs(revoked[i-1].ID, id) >= 0 {
			return nil, nil, errNotCanonical
		}
		revoked = append(revoked, Revoked{id, wr.Generation})
	}
	return nodes, revoked, nil
}

func (wn *wireNode) node(domain string) (Node, error) {
	id, err := identity.NewID(domain, identity.Node, wn.Name)
	if err != nil {
		return Node{}, fmt.Errorf("node: %w", err)
	}
	if len(wn.Site) > maxSite {
		return Node{}, fmt.Errorf("the site of %s has a name of %d bytes", id.Short(), len(wn.Site))
	}
	for _, list := range [][]string{wn.API, wn.MQTT, wn.Mesh} {
		if len(list) > maxAddrs {
			return Node{}, fmt.Errorf("%s has %d addresses, at most %d", id.Short(), len(list), maxAddrs)
		}
		for _, addr := range list {
			if !soundAddr(addr) {
				return Node{}, fmt.Errorf("address %q of %s: want host:port", addr, id.Short())
			}
		}
	}
	return Node{ID: id, Site: wn.Site, CA: wn.CA, API: wn.API, MQTT: wn.MQTT, Mesh: wn.Mesh, Key: wn.Key}, nil
}

func (w *wireHeader) slice() (*Slice, error) {
	target, err := parseShort(w.TrustDomain, w.Target)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	return &Slice{Target: target, Issued: w.Issued, Until: time.UnixMilli(w.Until).UTC(), RulesSum: w.Rules, FabricSum: w.Fabric}, nil
}

// parseShort reads kind:name and nothing else that identity.ParseShort would
// accept.
func parseShort(domain, s string) (identity.ID, error) {
	id, err := identity.ParseShort(domain, s)
	if err == nil && id.Short() != s {
		err = errNotCanonical
	}
	return id, err
}
