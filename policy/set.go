package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Set is a compiled policy. It never changes and is safe for concurrent use.
type Set struct {
	trustDomain string
	version     int       // of the language; 0 where no file says
	versionAt   hcl.Range // the attribute
	onUnknown   string    // of the sites block; "" where none says
	files       map[string][]byte
	hash        [32]byte
	groups      []*group
	rules       []*rule
	bindings    []*Binding
	tests       []*test

	// Indexes, so that finding the rules for an identity does not walk the whole
	// policy.
	membersOf finder            // groups by name pattern
	labelled  map[label][]int32 // groups without members, by one of their labels
	named     finder            // rules by a pattern in `to`
	grouped   map[int32][]int32 // rules by a group in `to`
	groupIDs  map[string]int32  // groups by name
}

type label struct{ key, value string }

// rule is a grant or a deny.
type rule struct {
	deny     bool
	name     string
	at       hcl.Range
	cite     string // `grant "sensor" main.hcl:14`
	to       selector
	except   selector
	when     *condition
	reason   string
	topics   []topics
	network  []*network
	function *functionBlock
	limits   *Limits // of a grant

	certificate *Certificate // of a grant
}

// topics is one topics block, or the topics of a function block.
type topics struct {
	filters   [actions][]template
	except    []template // left out of receive
	maxQoS    byte
	maxSize   int64
	functions bool // for identities of kind function only
}

// action is a kind of right over topics, and the index of its filters.
type action byte

const (
	publish action = iota
	subscribe
	will
	retain
	receive // of sites; other identities receive by subscribe
	actions // how many
)

var actionNames = [actions]string{"publish", "subscribe", "will", "retain", "receive"}

func (a action) String() string { return actionNames[a] }

// verb is the verb of a rule with such a filter: "… publishes site/#".
func (a action) verb() string {
	return [actions]string{"publishes", "subscribes", "sets wills on", "retains on", "receives"}[a]
}

// functionBlock is the part of a rule that gives a function rights besides its topics,
// or takes them away.
type functionBlock struct {
	capabilities []string
	memory       int64
	timeout      time.Duration
	onError      string
}

// TrustDomain returns the trust domain of the identities that the set knows.
func (s *Set) TrustDomain() string { return s.trustDomain }

// Files returns the files that the set was compiled from, by name. Their
// contents must not be changed.
func (s *Set) Files() map[string][]byte { return maps.Clone(s.files) }

// Hash identifies the files that the set was compiled from.
func (s *Set) Hash() [32]byte { return s.hash }

// Len returns the number of grants, denies and bindings.
func (s *Set) Len() int { return len(s.rules) + len(s.bindings) }

// HashFiles returns the [Set.Hash] of a set compiled from files: a digest of their
// names and contents.
func HashFiles(files map[string][]byte) [32]byte {
	h := sha256.New()
	var size [8]byte
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, field := range [][]byte{[]byte(name), files[name]} {
			binary.BigEndian.PutUint64(size[:], uint64(len(field)))
			h.Write(size[:])
			h.Write(field)
		}
	}
	return [32]byte(h.Sum(nil))
}

func cite(kind, name string, at hcl.Range) string {
	return fmt.Sprintf("%s %q %s:%d", kind, name, at.Filename, at.Start.Line)
}

// index builds the tables that questions start from.
func (s *Set) index() {
	s.labelled, s.grouped = map[label][]int32{}, map[int32][]int32{}
	for i, g := range s.groups {
		for _, p := range g.members {
			s.membersOf.add(p, int32(i))
		}
		if len(g.members) == 0 && len(g.labels) > 0 {
			key := slices.Min(slices.Collect(maps.Keys(g.labels)))
			l := label{key, g.labels[key]}
			s.labelled[l] = append(s.labelled[l], int32(i))
		}
	}
	for i, r := range s.rules {
		for _, p := range r.to.patterns {
			s.named.add(p, int32(i))
		}
		for _, g := range r.to.groups {
			s.grouped[g] = append(s.grouped[g], int32(i))
		}
	}
}

// member is a subject with the facts that every question needs about it.
type member struct {
	Subject
	name   string  // kind:name
	groups []int32 // ascending
}

// member resolves the groups of sub. A subject of another trust domain is unknown here:
// ok is false.
func (s *Set) member(sub Subject) (m member, ok bool) {
	m = member{Subject: sub, name: sub.ID.Short()}
	if sub.ID.IsZero() || s.trustDomain != "" && sub.ID.TrustDomain != s.trustDomain {
		return m, false
	}
	ids := s.membersOf.appendTo(nil, m.name)
	for k, v := range sub.Labels {
		ids = append(ids, s.labelled[label{k, v}]...)
	}
	ids = slices.DeleteFunc(ids, func(g int32) bool { return !s.groups[g].labelled(sub.Labels) })
	m.groups = sortedUnique(ids)
	return m, true
}

// rulesFor returns, ascending, the rules that select m by `to` and not by `except`. It
// does not look at conditions.
func (s *Set) rulesFor(m *member) []int32 {
	ids := s.named.appendTo(make([]int32, 0, 16), m.name)
	for _, g := range m.groups {
		ids = append(ids, s.grouped[g]...)
	}
	ids = slices.DeleteFunc(ids, func(i int32) bool {
		r := s.rules[i]
		return !r.except.empty() && r.except.match(m.name, m.groups)
	})
	return sortedUnique(ids)
}

// applies reports whether the rule's condition lets it apply to m; problem says why it
// could not be decided. An undecided grant does not apply, an undecided deny does.
func (r *rule) applies(m *member) (ok bool, problem string) {
	if r.when == nil {
		return true, ""
	}
	holds, problem := r.when.holds(&m.Subject)
	if problem != "" {
		return r.deny, problem
	}
	return holds, ""
}

func sortedUnique(ids []int32) []int32 {
	slices.Sort(ids)
	return slices.Compact(ids)
}

// groupList returns the names of m's groups.
func (s *Set) groupList(m *member) []string {
	names := make([]string, len(m.groups))
	for i, g := range m.groups {
		names[i] = s.groups[g].name
	}
	slices.SortFunc(names, strings.Compare)
	return names
}
