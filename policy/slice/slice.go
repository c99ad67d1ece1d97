package slice

import (
	"fmt"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// Slice is the inbound rules of one target. Its rules must not be changed; the
// zero slice allows nothing.
type Slice struct {
	Target identity.ID
	// Version orders slices of one target: the position in the directory's log
	// that it was compiled from.
	Version uint64
	Issued  time.Time
	Rules   []Rule

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

// Overtake is how long a slice that is not newer than the one in force is
// refused: longer than a node lags behind another while the mesh is whole.
const Overtake = time.Minute

// Newer reports whether s replaces old, which may be nil, at once.
func (s *Slice) Newer(old *Slice) bool {
	if old == nil || s.Version != old.Version {
		return old == nil || s.Version > old.Version
	}
	return s.Issued.After(old.Issued)
}

// Allow decides whether caller may reach port of network, and names the rule
// that decided; rule is empty when there is none.
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

// New returns the slice of target with rules, not yet versioned.
func New(target identity.ID, rules []Rule) *Slice {
	s := &Slice{Target: target, Rules: rules, callers: make(map[identity.ID][]*Rule)}
	for i := range s.Rules {
		r := &s.Rules[i]
		for _, c := range r.Callers {
			s.callers[c] = append(s.callers[c], r)
		}
	}
	return s
}
