package policy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/hpmq/hpmq/identity"
)

// Direction is where in a message's path a function is bound.
type Direction string

// The directions, seen from the device.
const (
	Upstream   Direction = "upstream"   // device to fabric
	Downstream Direction = "downstream" // fabric to device
)

// Binding puts a function into the path of some identities' messages. It never
// changes.
type Binding struct {
	Name     string
	Function string // name of the function's identity
	On       Direction
	Order    int    // lower runs first
	OnError  string // dead-letter, drop, reject, or pass
	Optional bool   // without the function, messages pass
	Rule     string // `binding "normalise" main.hcl:60`

	at      hcl.Range
	to      selector
	except  selector
	topics  tree
	filters []string
}

// Match reports whether a message on topic goes through the function. It does
// not allocate.
func (b *Binding) Match(topic string) bool { return b.topics.match(topic, asked{}) >= 0 }

// Topics returns the filters that the binding was written with.
func (b *Binding) Topics() []string { return slices.Clone(b.filters) }

// Bindings returns the bindings that concern sub in one direction, in the order
// in which they run. Upstream sub is the publisher, downstream the receiver.
func (s *Set) Bindings(sub Subject, on Direction) []*Binding {
	m, ok := s.member(sub)
	if !ok {
		return nil
	}
	var out []*Binding
	for _, b := range s.bindings {
		if b.On == on && b.to.match(m.name, m.groups) && !b.except.match(m.name, m.groups) {
			out = append(out, b)
		}
	}
	return out
}

// AllBindings returns every binding, in the order in which they run.
func (s *Set) AllBindings() []*Binding { return slices.Clone(s.bindings) }

func (r *reader) binding(b *hclsyntax.Block) {
	n := &Binding{Name: b.Labels[0], at: b.DefRange()}
	n.Rule = cite("binding", n.Name, n.at)
	r.known(b.Body, "binding", []string{"function", "on", "topics", "to", "except", "order", "on_error", "optional"}, nil)
	r.selector(b.Body, "to", &n.to)
	r.selector(b.Body, "except", &n.except)
	if f, at, ok := r.text(b.Body, "function"); ok {
		if _, err := identity.NewID("policy.test", identity.Function, f); err != nil {
			r.errorf(at, "function %q: %v", f, err)
		}
		n.Function = f
	}
	n.On = Direction(r.oneOf(b.Body, "on", string(Upstream), string(Downstream)))
	for _, l := range r.texts(b.Body, "topics") {
		if err := validFilter(l.text); err != nil {
			r.errorf(l.at, "%q: %v", l.text, err)
			continue
		}
		n.filters = append(n.filters, l.text)
		n.topics.insert(l.text, leaf{})
	}
	for _, name := range []string{"function", "on", "topics", "to"} {
		if b.Body.Attributes[name] == nil {
			r.errorf(n.at, "binding %q needs %s", n.Name, name)
		}
	}
	order, at, ok := r.integer(b.Body, "order")
	if ok && (order < -1e6 || order > 1e6) {
		r.errorf(at, "order is between -1000000 and 1000000")
	}
	n.Order = int(order)
	n.Optional = r.boolean(b.Body, "optional")
	n.OnError = r.oneOf(b.Body, "on_error", onErrorChoices...)
	if n.OnError == "pass" && !n.Optional {
		r.errorf(b.Body.Attributes["on_error"].Expr.Range(), "on_error = \"pass\" lets messages through unfiltered: it needs optional = true")
	}
	r.set.bindings = append(r.set.bindings, n)
}

// finishBindings sorts the bindings and fills in on_error: from the binding, else from
// a grant to its function, else dead-letter.
func (s *Set) finishBindings() {
	slices.SortStableFunc(s.bindings, func(a, b *Binding) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), strings.Compare(a.Name, b.Name))
	})
	for _, b := range s.bindings {
		if b.OnError == "" {
			b.OnError = cmp.Or(s.functionOnError(b.Function), "dead-letter")
		}
	}
}

func (s *Set) functionOnError(function string) string {
	td := cmp.Or(s.trustDomain, "policy.test")
	m, ok := s.member(Subject{ID: identity.ID{TrustDomain: td, Kind: identity.Function, Name: function}})
	if !ok {
		return ""
	}
	for _, i := range s.rulesFor(&m) {
		if r := s.rules[i]; r.function != nil && !r.deny && r.function.onError != "" {
			return r.function.onError
		}
	}
	return ""
}
