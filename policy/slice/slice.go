package slice

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// MaxStale is how long a slice holds at most after it was issued.
const MaxStale = 14 * 24 * time.Hour

// Slice holds the rules of one target. It must not be changed; the zero slice allows
// nothing.
type Slice struct {
	Target identity.ID
	// Issued orders the slices of one target. It is a hybrid logical clock of the
	// directory's writer, see [Slice.IssuedAt].
	Issued uint64
	Until  time.Time // the slice allows nothing afterwards
	Rules  []Rule

	Nodes   []Node    // the active nodes of the fabric, by name
	Revoked []Revoked // nodes with certificates that could still be valid, by name

	// RulesSum and FabricSum are the hashes of the signed parts.
	RulesSum, FabricSum [32]byte

	callers map[identity.ID][]*Rule
}

// Rule says which callers may, or with Deny may not, reach which ports. A deny
// beats every other rule.
type Rule struct {
	Cite    string // `grant "vendor" main.hcl:40`, for people
	Deny    bool
	Callers []identity.ID
	Ports   []PortRange
}

// Node is one node of the fabric: where it is reached, host:port, and its key.
type Node struct {
	ID   identity.ID
	Site string
	CA   bool // it issues certificates
	API  []string
	MQTT []string
	Mesh []string
	Key  [32]byte // SHA-256 of the SubjectPublicKeyInfo of its current certificate
}

// Revoked ends the certificates of a node up to and including Generation.
type Revoked struct {
	ID         identity.ID
	Generation uint64
}

// PortRange is a run of ports, both ends included.
type PortRange struct {
	Network     string // tcp or udp
	First, Last uint16
}

// Includes reports whether port of network lies in the range.
func (p PortRange) Includes(network string, port uint16) bool {
	return p.Network == network && p.First <= port && port <= p.Last
}

// String returns the form that policy files use, such as tcp/22 or tcp/*.
func (p PortRange) String() string {
	switch {
	case p.First <= 1 && p.Last == 65535:
		return p.Network + "/*"
	case p.First == p.Last:
		return fmt.Sprintf("%s/%d", p.Network, p.First)
	}
	return fmt.Sprintf("%s/%d-%d", p.Network, p.First, p.Last)
}

// IssuedAt returns when the slice was issued, by the writer's clock.
func (s *Slice) IssuedAt() time.Time { return time.UnixMilli(int64(s.Issued >> 16)).UTC() }

// Ended reports whether the slice holds no more at now.
func (s *Slice) Ended(now time.Time) bool { return now.After(s.Until) }

// Allow decides whether caller may reach port of network, and names the rule
// that decided; rule is empty when there is none. It knows no time.
func (s *Slice) Allow(caller identity.ID, network string, port uint16) (rule string, ok bool) {
	if s == nil {
		return "", false
	}
	for _, r := range s.callers[caller] {
		for _, p := range r.Ports {
			if !p.Includes(network, port) {
				continue
			}
			if r.Deny {
				return r.Cite, false
			}
			if !ok {
				rule, ok = r.Cite, true
			}
		}
	}
	return rule, ok
}

// NodeRevoked reports whether the certificates of a node at generation are revoked.
func (s *Slice) NodeRevoked(node identity.ID, generation uint64) bool {
	if s == nil {
		return false
	}
	i, ok := slices.BinarySearchFunc(s.Revoked, node, func(r Revoked, id identity.ID) int { return compareIDs(r.ID, id) })
	return ok && generation <= s.Revoked[i].Generation
}

// NodeKey reports whether key is the current one of an active node.
func (s *Slice) NodeKey(node identity.ID, key [32]byte) bool {
	if s == nil {
		return false
	}
	i, ok := slices.BinarySearchFunc(s.Nodes, node, func(n Node, id identity.ID) int { return compareIDs(n.ID, id) })
	return ok && s.Nodes[i].Key == key
}

// Nearest returns the nodes in the order in which a device of site home should try
// them: nodes of its site, CAs, other nodes.
func (s *Slice) Nearest(home string) []Node {
	if s == nil {
		return nil
	}
	rank := func(n Node) int {
		switch {
		case n.Site == home:
			return 0
		case n.CA:
			return 1
		}
		return 2
	}
	nodes := slices.Clone(s.Nodes)
	slices.SortStableFunc(nodes, func(a, b Node) int { return cmp.Compare(rank(a), rank(b)) })
	return nodes
}

// index makes Allow quick.
func (s *Slice) index() {
	s.callers = make(map[identity.ID][]*Rule)
	for i := range s.Rules {
		r := &s.Rules[i]
		for _, c := range r.Callers {
			s.callers[c] = append(s.callers[c], r)
		}
	}
}

// compareIDs orders identities of one trust domain.
func compareIDs(a, b identity.ID) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
}
