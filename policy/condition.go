package policy

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// condition is a `when` expression over id.* and session.*. It is evaluated
// once per session, never per message.
type condition struct {
	expr   hclsyntax.Expression
	labels []string // the labels that it names: only they are given a value
}

// holds evaluates the condition for sub. A label or site that sub does not have
// is unknown, not empty; problem is set when the result depends on it.
func (c *condition) holds(sub *Subject) (result bool, problem string) {
	v, diags := c.expr.Value(c.scope(sub))
	if diags.HasErrors() {
		return false, "cannot be evaluated: " + diags[0].Summary
	}
	if !v.IsKnown() {
		return false, "depends on " + c.missing(sub)
	}
	if v.IsNull() || !v.Type().Equals(cty.Bool) {
		return false, "is neither true nor false"
	}
	return v.True(), ""
}

func (c *condition) missing(sub *Subject) string {
	for _, t := range c.expr.Variables() {
		if r, _ := reference(t); r.value != noValue && r.lookup(sub) == "" {
			return r.String() + ", which has no value"
		}
	}
	return "a value that is missing"
}

// scope gives the values of sub to an expression; a nil sub makes them all
// unknown, which is how an expression is checked when it is read.
func (c *condition) scope(sub *Subject) *hcl.EvalContext {
	value := func(r ref) cty.Value {
		if sub == nil {
			return cty.UnknownVal(cty.String)
		}
		if v := r.lookup(sub); v != "" {
			return cty.StringVal(v)
		}
		return cty.UnknownVal(cty.String)
	}
	labels := map[string]cty.Value{}
	for _, l := range c.labels {
		labels[l] = value(ref{value: labelValue, label: l})
	}
	return &hcl.EvalContext{Variables: map[string]cty.Value{
		"id": cty.ObjectVal(map[string]cty.Value{
			"name":   value(ref{value: nameValue}),
			"kind":   value(ref{value: kindValue}),
			"site":   value(ref{value: siteValue}),
			"labels": cty.ObjectVal(labels),
		}),
		"session": cty.ObjectVal(map[string]cty.Value{"site": value(ref{value: sessionSiteValue})}),
	}}
}

// reference reads a traversal such as id.labels.model. at is the part of it
// that is wrong when the result is the zero ref.
func reference(t hcl.Traversal) (r ref, at hcl.Range) {
	names := make([]string, 0, 3)
	for _, step := range t {
		at = step.SourceRange()
		switch s := step.(type) {
		case hcl.TraverseRoot:
			names = append(names, s.Name)
		case hcl.TraverseAttr:
			names = append(names, s.Name)
		case hcl.TraverseIndex:
			if s.Key.IsNull() || !s.Key.IsKnown() || !s.Key.Type().Equals(cty.String) {
				return ref{}, at
			}
			names = append(names, s.Key.AsString())
		default:
			return ref{}, at
		}
		if !prefixOfReference(names) {
			return ref{}, at
		}
	}
	switch {
	case len(names) == 3:
		return ref{value: labelValue, label: names[2]}, at
	case len(names) == 2 && names[0] == "session":
		return ref{value: sessionSiteValue}, at
	case len(names) == 2:
		return ref{value: map[string]valueName{"name": nameValue, "kind": kindValue, "site": siteValue}[names[1]]}, at
	}
	return ref{}, at
}

func prefixOfReference(names []string) bool {
	switch len(names) {
	case 1:
		return names[0] == "id" || names[0] == "session"
	case 2:
		if names[0] == "session" {
			return names[1] == "site"
		}
		return names[1] == "name" || names[1] == "kind" || names[1] == "site" || names[1] == "labels"
	case 3:
		return names[0] == "id" && names[1] == "labels" && names[2] != ""
	}
	return false
}
