package policy

import (
	"cmp"
	"encoding/binary"
	"iter"
	"slices"
	"strings"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/policy/slice"
)

// Inbound answers, for many targets, which callers reach which ports. It keeps for
// each rule with a network block the callers to which the rule applies, and follows
// the changes of single identities. It is not safe for concurrent use.
type Inbound struct {
	set     *Set
	callers []ruleCallers // by rule; empty for rules without a network block
	parts   map[string]*inboundPart
}

// ruleCallers are the identities to which a rule applies.
type ruleCallers struct {
	ids     []identity.ID // sorted
	version uint64        // counts the changes of ids
}

// inboundPart is shared by all targets with the same inbound blocks.
type inboundPart struct {
	versions []uint64 // of the callers of each block's rule
	part     slice.Part
	err      error // why there is none
}

// Inbound returns the network rules of s for the callers among all.
func (s *Set) Inbound(all iter.Seq[Subject]) *Inbound {
	x := &Inbound{set: s, callers: make([]ruleCallers, len(s.rules)), parts: map[string]*inboundPart{}}
	for sub := range all {
		for i := range x.rulesOf(sub) {
			x.callers[i].ids = append(x.callers[i].ids, sub.ID)
		}
	}
	for i := range x.callers {
		slices.SortFunc(x.callers[i].ids, compareIDs)
		x.callers[i].ids = slices.Compact(x.callers[i].ids)
	}
	return x
}

// rulesOf yields the rules with a network block that apply to a caller.
func (x *Inbound) rulesOf(sub Subject) iter.Seq[int] {
	return func(yield func(int) bool) {
		sub.SessionSite = "" // as Connect takes it
		m, ok := x.set.member(sub)
		if !ok {
			return
		}
		for _, i := range x.set.rulesFor(&m) {
			r := x.set.rules[i]
			if len(r.network) == 0 {
				continue
			}
			if applies, _ := r.applies(&m); applies && !yield(int(i)) {
				return
			}
		}
	}
}

// Update takes in that an identity changed, or with active false that it is gone,
// and reports whether it reaches other ports than before.
func (x *Inbound) Update(sub Subject, active bool) (changed bool) {
	applies := map[int]bool{}
	if active {
		for i := range x.rulesOf(sub) {
			applies[i] = true
		}
	}
	for i, r := range x.set.rules {
		if len(r.network) == 0 {
			continue
		}
		c := &x.callers[i]
		at, had := slices.BinarySearchFunc(c.ids, sub.ID, compareIDs)
		switch {
		case applies[i] == had:
			continue
		case had:
			c.ids = slices.Delete(slices.Clone(c.ids), at, at+1)
		default:
			c.ids = slices.Insert(slices.Clone(c.ids), at, sub.ID)
		}
		c.version++
		changed = true
	}
	return changed
}

// Part returns the encoded rules of target, by the answers of [Set.Connect]. They
// are compiled once for all targets that the same blocks name, and anew after a
// change of the callers.
func (x *Inbound) Part(target Subject) (slice.Part, error) {
	var blocks []inboundBlock
	if t, ok := x.set.member(target); ok {
		blocks = x.set.inbound(&t)
	}
	key := make([]byte, 0, 8*len(blocks))
	for _, b := range blocks {
		key = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(key, uint32(b.rule)), uint32(b.block)) //nolint:gosec // indexes of slices
	}
	p := x.parts[string(key)]
	if p == nil || !x.current(p, blocks) {
		p = &inboundPart{}
		for _, b := range blocks {
			p.versions = append(p.versions, x.callers[b.rule].version)
		}
		p.part, p.err = slice.EncodeRules(x.set.trustDomain, x.compile(blocks))
		x.parts[string(key)] = p
	}
	return p.part, p.err
}

func (x *Inbound) current(p *inboundPart, blocks []inboundBlock) bool {
	for i, b := range blocks {
		if p.versions[i] != x.callers[b.rule].version {
			return false
		}
	}
	return true
}

// compile returns the rules of the targets that blocks name.
func (x *Inbound) compile(blocks []inboundBlock) []slice.Rule {
	granted := map[identity.ID]bool{}
	if slices.ContainsFunc(blocks, func(b inboundBlock) bool { return x.set.rules[b.rule].deny }) {
		for _, b := range blocks {
			if !x.set.rules[b.rule].deny {
				for _, id := range x.callers[b.rule].ids {
					granted[id] = true
				}
			}
		}
	}
	var rules []slice.Rule
	for _, b := range blocks {
		r, ids := x.set.rules[b.rule], x.callers[b.rule].ids
		if r.deny { // worth carrying only for identities that are granted something
			ids = slices.DeleteFunc(slices.Clone(ids), func(id identity.ID) bool { return !granted[id] })
		}
		if len(ids) > 0 {
			rules = append(rules, slice.Rule{Cite: r.cite, Deny: r.deny, Callers: ids, Ports: r.network[b.block].ports})
		}
	}
	return rules
}

// inboundBlock is a network block that names one target.
type inboundBlock struct{ rule, block int }

func (s *Set) inbound(target *member) []inboundBlock {
	var out []inboundBlock
	for i, r := range s.rules {
		for k, n := range r.network {
			if n.dst.match(target.name, target.groups) {
				out = append(out, inboundBlock{i, k})
			}
		}
	}
	return out
}

// compareIDs orders identities of one trust domain.
func compareIDs(a, b identity.ID) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
}
