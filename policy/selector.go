package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/hpmq/hpmq/identity"
)

// Subject is an identity as policy sees it: the name from its certificate and its entry
// in the directory.
type Subject struct {
	ID          identity.ID
	Labels      map[string]string
	Site        string // home site
	SessionSite string // site of the node it is connected to
}

// pattern selects identities by name: all of them, or a kind with a name in
// which * stands for any run of characters.
type pattern struct {
	text string // as written
	name string // kind:name, the form compared
	glob bool
}

var (
	kinds       = []string{string(identity.Device), string(identity.Node), string(identity.User), string(identity.Service), string(identity.Function), string(siteKind)}
	nameGlob    = regexp.MustCompile(`^[a-z0-9._@*-]+$`)
	groupName   = regexp.MustCompile(`^[a-z0-9][a-z0-9._@-]{0,62}$`)
	everyone    = pattern{text: "*", glob: true}
	groupPrefix = "group:"
)

func parsePattern(s string) (pattern, error) {
	if s == "*" {
		return everyone, nil
	}
	kind, name, ok := strings.Cut(s, ":")
	if !ok {
		return pattern{}, fmt.Errorf("%q names no kind: write device:%s, user:%s, group:%s, …", s, s, s, s)
	}
	if !slices.Contains(kinds, kind) {
		return pattern{}, fmt.Errorf("unknown kind %q%s", kind, suggest(kind, append([]string{"group"}, kinds...)))
	}
	if !nameGlob.MatchString(name) {
		return pattern{}, fmt.Errorf("%q: names are made of a-z 0-9 . _ @ - (and * for any of them)", s)
	}
	return pattern{text: s, name: s, glob: strings.Contains(name, "*")}, nil
}

func (p pattern) match(name string) bool {
	switch {
	case p.name == "":
		return true
	case !p.glob:
		return p.name == name
	}
	return globMatch(p.name, name)
}

// globMatch reports whether s is an instance of glob. It backs up to the last *
// only, so its work is bounded by the product of the lengths.
func globMatch(glob, s string) bool {
	g, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, mark = g, i
			g++
		case g < len(glob) && glob[g] == s[i]:
			g++
			i++
		case star >= 0:
			mark++
			g, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(glob[g:], "*") == ""
}

// possible reports whether some legal identity name is an instance of p.
func (p pattern) possible() bool {
	if p.name == "" {
		return true
	}
	_, name, _ := strings.Cut(p.name, ":")
	return len(strings.ReplaceAll(name, "*", "")) <= 63 && !strings.ContainsAny(name[:1], "._@-")
}

// selector is a list such as `to`: identities by pattern and by group.
type selector struct {
	patterns []pattern
	groups   []int32 // indexes into Set.groups
	text     []string
}

// match reports whether name, a member of groups, is selected.
func (s *selector) match(name string, groups []int32) bool {
	for _, g := range s.groups {
		if slices.Contains(groups, g) {
			return true
		}
	}
	return slices.ContainsFunc(s.patterns, func(p pattern) bool { return p.match(name) })
}

func (s *selector) empty() bool { return len(s.patterns) == 0 && len(s.groups) == 0 }

// includes reports whether s selects every identity that o selects, as far as the lists
// tell.
func (s *selector) includes(o *selector) bool {
	for _, g := range o.groups {
		if !slices.Contains(s.groups, g) && !slices.Contains(s.patterns, everyone) {
			return false
		}
	}
	return !slices.ContainsFunc(o.patterns, func(p pattern) bool {
		return !slices.ContainsFunc(s.patterns, func(q pattern) bool {
			// A glob with one * that ends it matches another glob's text
			// exactly when it matches all of its instances.
			return q == everyone || q == p || q.glob && strings.IndexByte(q.name, '*') == len(q.name)-1 && q.match(p.name)
		})
	})
}

func (s *selector) String() string { return strings.Join(s.text, ", ") }

// group is a named set of identities. An identity belongs when it matches one
// of members (if there are any) and carries all of labels.
type group struct {
	name    string
	members []pattern
	labels  map[string]string
	at      hcl.Range
	used    bool
}

func (g *group) labelled(labels map[string]string) bool {
	for k, v := range g.labels {
		if labels[k] != v || v == "" {
			return false
		}
	}
	return true
}

// finder answers which entries of a long list select an identity, without
// walking the list: exact names by map, globs by the text before their first *.
type finder struct {
	exact  map[string][]int32
	prefix map[string][]globEntry
	sizes  []int // the lengths of the keys of prefix, ascending
}

type globEntry struct {
	pattern pattern
	entry   int32
}

func (f *finder) add(p pattern, entry int32) {
	if f.exact == nil {
		f.exact, f.prefix = map[string][]int32{}, map[string][]globEntry{}
	}
	if !p.glob {
		f.exact[p.name] = append(f.exact[p.name], entry)
		return
	}
	key, _, _ := strings.Cut(p.name, "*")
	f.prefix[key] = append(f.prefix[key], globEntry{p, entry})
	if i, found := slices.BinarySearch(f.sizes, len(key)); !found {
		f.sizes = slices.Insert(f.sizes, i, len(key))
	}
}

// appendTo appends the entries that select name, some perhaps more than once.
func (f *finder) appendTo(dst []int32, name string) []int32 {
	dst = append(dst, f.exact[name]...)
	for _, n := range f.sizes {
		if n > len(name) {
			break
		}
		for _, g := range f.prefix[name[:n]] {
			if g.pattern.match(name) {
				dst = append(dst, g.entry)
			}
		}
	}
	return dst
}
