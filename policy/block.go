package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/hpmq/hpmq/mqtt/topic"
)

func (r *reader) group(b *hclsyntax.Block) {
	g := &group{name: b.Labels[0], at: b.DefRange()}
	r.known(b.Body, "group", []string{"members", "labels"}, nil)
	if !groupName.MatchString(g.name) {
		r.errorf(b.LabelRanges[0], "a group's name is 1-63 of a-z 0-9 . _ @ -, beginning with a letter or digit")
	}
	for _, l := range r.texts(b.Body, "members") {
		if strings.HasPrefix(l.text, groupPrefix) {
			r.errorf(l.at, "a group cannot contain a group; name both where they are used")
			continue
		}
		p, err := parsePattern(l.text)
		if err != nil {
			r.errorf(l.at, "%v", err)
			continue
		}
		if !p.possible() {
			r.warnf(l.at, "no identity can be named %s", l.text)
		}
		g.members = append(g.members, p)
	}
	if a := b.Body.Attributes["labels"]; a != nil {
		g.labels = r.labels(a.Expr)
	}
	if len(g.members) == 0 && len(g.labels) == 0 {
		r.warnf(g.at, "group %q has no members: nobody can be in it", g.name)
	}
	r.set.groupIDs[g.name] = int32(len(r.set.groups))
	r.set.groups = append(r.set.groups, g)
}

// rule reads a grant or a deny.
func (r *reader) rule(b *hclsyntax.Block) {
	u := &rule{deny: b.Type == "deny", name: b.Labels[0], at: b.DefRange()}
	u.cite = cite(b.Type, u.name, u.at)
	attributes := []string{"to", "except", "when"}
	if u.deny {
		attributes = append(attributes, "reason")
	}
	blocks := []string{"topics", "network", "function"}
	if !u.deny {
		blocks = append(blocks, "limits", "certificate")
	}
	r.known(b.Body, b.Type, attributes, blocks)
	r.selector(b.Body, "to", &u.to)
	r.selector(b.Body, "except", &u.except)
	if len(u.to.text) == 0 {
		r.errorf(u.at, "%s %q has no `to`: say whom it concerns, for example to = [\"group:…\"]", b.Type, u.name)
	}
	if a := b.Body.Attributes["when"]; a != nil {
		u.when = r.condition(a.Expr)
	}
	u.reason, _, _ = r.text(b.Body, "reason")
	u.reason = strings.Join(strings.Fields(printable(u.reason)), " ")
	for _, inner := range b.Body.Blocks {
		if slices.Contains(blocks, inner.Type) && len(inner.Labels) > 0 {
			r.errorf(inner.LabelRanges[0], "%s takes no name", inner.Type)
		}
		switch inner.Type {
		case "topics":
			r.topics(u, inner)
		case "network":
			r.network(u, inner)
		case "function":
			r.function(u, inner)
		case "limits":
			if !u.deny {
				r.limits(u, inner)
			}
		case "certificate":
			if !u.deny {
				r.certificate(u, inner)
			}
		}
	}
	if len(b.Body.Blocks) == 0 {
		r.errorf(u.at, "%s %q is about nothing: add a %s or %s block", b.Type, u.name, strings.Join(blocks[:len(blocks)-1], ", "), blocks[len(blocks)-1])
	}
	r.set.rules = append(r.set.rules, u)
}

func (r *reader) condition(e hclsyntax.Expression) *condition {
	c := &condition{expr: e}
	before := r.errors
	r.addHCL(hclsyntax.VisitAll(e, func(n hclsyntax.Node) hcl.Diagnostics {
		switch n.(type) {
		case *hclsyntax.LiteralValueExpr, *hclsyntax.TemplateExpr, *hclsyntax.ScopeTraversalExpr, *hclsyntax.BinaryOpExpr,
			*hclsyntax.UnaryOpExpr, *hclsyntax.ParenthesesExpr, *hclsyntax.ConditionalExpr:
			return nil
		}
		return hcl.Diagnostics{{Severity: hcl.DiagError, Subject: n.Range().Ptr(), Summary: "a condition is made of values, comparisons, &&, ||, ! and ?:"}}
	}))
	for _, t := range e.Variables() {
		if v, ok := r.reference(t); ok && v.value == labelValue {
			c.labels = append(c.labels, v.label)
		}
	}
	if r.errors > before {
		return c
	}
	v, diags := e.Value(c.scope(nil))
	r.addHCL(diags)
	if diags.HasErrors() {
		return c
	}
	if !v.Type().Equals(cty.Bool) || v.IsNull() {
		r.errorf(e.Range(), "a condition must be true or false, such as id.labels.model == \"s7\"")
	} else if v.IsKnown() && !v.True() {
		r.warnf(e.Range(), "this condition is never true")
	}
	return c
}

func (r *reader) topics(u *rule, b *hclsyntax.Block) {
	t := topics{maxQoS: 2}
	names := actionNames[:]
	if !u.deny {
		names = slices.Concat(names, []string{"except", "max_qos", "max_size"})
	}
	r.known(b.Body, "topics", names, nil)
	n := 0
	for a := range actions {
		t.filters[a] = r.filters(b.Body, a.String(), a)
		n += len(t.filters[a])
	}
	r.receives(u, &t, b)
	if q, at, ok := r.integer(b.Body, "max_qos"); ok && (q < 0 || q > 2) {
		r.errorf(at, "max_qos is 0, 1 or 2")
	} else if ok {
		t.maxQoS = byte(q)
	}
	t.maxSize = r.size(b.Body, "max_size")
	if n == 0 {
		r.warnf(b.DefRange(), "these topics hold no filter")
	}
	u.topics = append(u.topics, t)
}

// filters reads a list of filters for action a.
func (r *reader) filters(b *hclsyntax.Body, name string, a action) []template {
	var out []template
	for _, e := range r.list(b, name) {
		t, ok := r.template(e)
		if !ok {
			continue
		}
		if err := checkFilter(&t, a); err != nil {
			r.errorf(e.Range(), "%q: %v", t.text, err)
			continue
		}
		if a == receive && strings.HasPrefix(t.text, "$") {
			r.warnf(e.Range(), "%q can never match: what begins with $ stays at its site", t.text)
		}
		out = append(out, t)
	}
	return out
}

// checkFilter checks the shape of a filter with some word in place of each
// value.
func checkFilter(t *template, a action) error {
	sample := t.sample("x")
	share, filter := topic.CutShare(sample)
	switch {
	case share == "":
		return validFilter(sample)
	case a != subscribe:
		return fmt.Errorf("a $share filter can only be subscribed to")
	case share == "+":
		return validFilter("$share/any/" + filter)
	case strings.ContainsAny(share, "+#"):
		return fmt.Errorf("the group of a $share filter is a name, or + for any")
	}
	return validFilter(sample)
}

var (
	onErrorChoices    = []string{"dead-letter", "drop", "reject", "pass"}
	capabilityPattern = regexp.MustCompile(`^[a-z][a-z0-9-]*(:[^\s:][^\s]*)?$`)
)

func (r *reader) function(u *rule, b *hclsyntax.Block) {
	names := []string{"publish", "capabilities"}
	if !u.deny {
		names = append(names, "memory", "timeout", "on_error")
	}
	r.known(b.Body, "function", names, nil)
	if u.function != nil {
		r.errorf(b.DefRange(), "one function block is enough")
		return
	}
	f := &functionBlock{}
	for _, l := range r.texts(b.Body, "capabilities") {
		if !capabilityPattern.MatchString(l.text) {
			r.errorf(l.at, "a capability is written like \"kv:read\" or \"clock\"")
		}
		f.capabilities = append(f.capabilities, l.text)
	}
	f.memory = r.size(b.Body, "memory")
	f.timeout = r.duration(b.Body, "timeout")
	f.onError = r.oneOf(b.Body, "on_error", onErrorChoices[:3]...)
	u.function = f
	t := topics{maxQoS: 2, functions: true}
	t.filters[publish] = r.filters(b.Body, "publish", publish)
	// A function passes the retain flag of its input on; whether the origin
	// may retain is asked of the origin.
	t.filters[retain] = t.filters[publish]
	u.topics = append(u.topics, t)
	if !selectsKind(&u.to, "function:") {
		r.warnf(b.DefRange(), "%s %q has a function block, but selects no function", b.Type, u.name)
	}
}

// selectsKind reports whether s can select an identity with a name that begins with
// prefix. Groups count, as they may not be read yet.
func selectsKind(s *selector, prefix string) bool {
	return slices.ContainsFunc(s.text, func(t string) bool {
		return t == "*" || strings.HasPrefix(t, prefix) || strings.HasPrefix(t, groupPrefix)
	})
}
