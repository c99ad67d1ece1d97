package policy

import (
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// literal is a string from a file and its place.
type literal struct {
	text string
	at   hcl.Range
}

// known reports every attribute and block of b that is not in the lists.
func (r *reader) known(b *hclsyntax.Body, where string, attributes, blocks []string) {
	for _, name := range slices.Sorted(maps.Keys(b.Attributes)) {
		if slices.Contains(attributes, name) {
			continue
		}
		at := b.Attributes[name].NameRange
		if slices.Contains(blocks, name) {
			r.errorf(at, "%s is a block: write %s { … } without =", name, name)
			continue
		}
		r.errorf(at, "unknown key %q in %s%s", name, where, suggest(name, slices.Concat(attributes, blocks)))
	}
	for _, inner := range b.Blocks {
		if slices.Contains(blocks, inner.Type) {
			continue
		}
		if slices.Contains(attributes, inner.Type) {
			r.errorf(inner.TypeRange, "%s is a key: write %s = …", inner.Type, inner.Type)
			continue
		}
		r.errorf(inner.TypeRange, "unknown block %q in %s%s", inner.Type, where, suggest(inner.Type, slices.Concat(blocks, attributes)))
	}
}

// constant returns the value of an expression that refers to nothing.
func (r *reader) constant(e hclsyntax.Expression) (cty.Value, bool) {
	v, diags := e.Value(nil)
	if diags.HasErrors() {
		r.addHCL(diags)
		return v, false
	}
	if !v.IsWhollyKnown() || v.IsNull() {
		r.errorf(e.Range(), "want a value here")
		return v, false
	}
	return v, true
}

// text returns a string attribute; ok is false when it is absent or wrong.
func (r *reader) text(b *hclsyntax.Body, name string) (s string, at hcl.Range, ok bool) {
	a := b.Attributes[name]
	if a == nil {
		return "", at, false
	}
	s, ok = r.stringOf(a.Expr, name)
	return s, a.Expr.Range(), ok
}

func (r *reader) stringOf(e hclsyntax.Expression, name string) (string, bool) {
	v, ok := r.constant(e)
	if !ok {
		return "", false
	}
	if !v.Type().Equals(cty.String) {
		r.errorf(e.Range(), "%s must be a quoted string", name)
		return "", false
	}
	return v.AsString(), true
}

func (r *reader) integer(b *hclsyntax.Body, name string) (n int64, at hcl.Range, ok bool) {
	a := b.Attributes[name]
	if a == nil {
		return 0, at, false
	}
	v, ok := r.constant(a.Expr)
	if !ok {
		return 0, at, false
	}
	if v.Type().Equals(cty.Number) {
		if n, accuracy := v.AsBigFloat().Int64(); accuracy == big.Exact {
			return n, a.Expr.Range(), true
		}
	}
	r.errorf(a.Expr.Range(), "%s must be a whole number", name)
	return 0, at, false
}

func (r *reader) boolean(b *hclsyntax.Body, name string) bool {
	a := b.Attributes[name]
	if a == nil {
		return false
	}
	v, ok := r.constant(a.Expr)
	if ok && !v.Type().Equals(cty.Bool) {
		r.errorf(a.Expr.Range(), "%s must be true or false", name)
		return false
	}
	return ok && v.True()
}

// oneOf returns a string attribute that must be one of choices.
func (r *reader) oneOf(b *hclsyntax.Body, name string, choices ...string) string {
	s, at, ok := r.text(b, name)
	if ok && !slices.Contains(choices, s) {
		r.errorf(at, "%s cannot be %q%s", name, s, suggest(s, choices))
		return ""
	}
	return s
}

// list returns the expressions of a list attribute.
func (r *reader) list(b *hclsyntax.Body, name string) []hclsyntax.Expression {
	a := b.Attributes[name]
	if a == nil {
		return nil
	}
	tuple, ok := a.Expr.(*hclsyntax.TupleConsExpr)
	if !ok {
		r.errorf(a.Expr.Range(), "%s must be a list: %s = [\"…\"]", name, name)
		return nil
	}
	return tuple.Exprs
}

// texts returns a list attribute of constant strings.
func (r *reader) texts(b *hclsyntax.Body, name string) []literal {
	var out []literal
	for _, e := range r.list(b, name) {
		if s, ok := r.stringOf(e, "an entry of "+name); ok {
			out = append(out, literal{s, e.Range()})
		}
	}
	return out
}

// fields returns a constant object as strings, reporting keys that are not
// known (nil knows all).
func (r *reader) fields(e hclsyntax.Expression, where string, known []string) map[string]literal {
	object, ok := e.(*hclsyntax.ObjectConsExpr)
	if !ok {
		r.errorf(e.Range(), "%s must be an object: { key = \"value\" }", where)
		return nil
	}
	out := map[string]literal{}
	for _, item := range object.Items {
		key, ok := r.stringOf(item.KeyExpr, "a key of "+where)
		if !ok {
			continue
		}
		if known != nil && !slices.Contains(known, key) {
			r.errorf(item.KeyExpr.Range(), "unknown key %q in %s%s", key, where, suggest(key, known))
			continue
		}
		if _, twice := out[key]; twice {
			r.errorf(item.KeyExpr.Range(), "%q is given twice in %s", key, where)
			continue
		}
		if key == "labels" && known != nil {
			out[key] = literal{at: item.ValueExpr.Range()} // read by the caller
			continue
		}
		if v, ok := r.stringOf(item.ValueExpr, key); ok {
			out[key] = literal{v, item.ValueExpr.Range()}
		}
	}
	return out
}

// labels returns an object of labels.
func (r *reader) labels(e hclsyntax.Expression) map[string]string {
	out := map[string]string{}
	for k, v := range r.fields(e, "labels", nil) {
		if v.text == "" {
			r.errorf(v.at, "a label's value cannot be empty")
			continue
		}
		out[k] = v.text
	}
	return out
}

var sizeUnits = []struct {
	suffix string
	factor int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}

// size returns an attribute such as "64KiB", or 0.
func (r *reader) size(b *hclsyntax.Body, name string) int64 {
	a := b.Attributes[name]
	if a == nil {
		return 0
	}
	v, ok := r.constant(a.Expr)
	if !ok {
		return 0
	}
	s := ""
	switch {
	case v.Type().Equals(cty.String):
		s = v.AsString()
	case v.Type().Equals(cty.Number):
		s = v.AsBigFloat().Text('f', -1)
	}
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err == nil && n > 0 && n <= (1<<40)/u.factor {
			return n * u.factor
		}
	}
	r.errorf(a.Expr.Range(), "%s must be a size such as \"64KiB\", above 0", name)
	return 0
}

// duration returns an attribute such as "5ms", or 0.
func (r *reader) duration(b *hclsyntax.Body, name string) time.Duration {
	s, at, ok := r.text(b, name)
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		r.errorf(at, "%s must be a duration such as \"5ms\", above 0", name)
		return 0
	}
	return d
}

// selector reads a list of identities and groups.
func (r *reader) selector(b *hclsyntax.Body, name string, into *selector) {
	for _, l := range r.texts(b, name) {
		into.text = append(into.text, l.text)
		if g, ok := strings.CutPrefix(l.text, groupPrefix); ok {
			r.pending = append(r.pending, pendingGroup{g, l.at, into})
			continue
		}
		p, err := parsePattern(l.text)
		if err != nil {
			r.errorf(l.at, "%v", err)
			continue
		}
		into.patterns = append(into.patterns, p)
	}
}

// template reads one filter.
func (r *reader) template(e hclsyntax.Expression) (template, bool) {
	var t template
	var parts []hclsyntax.Expression
	switch e := e.(type) {
	case *hclsyntax.TemplateExpr:
		parts = e.Parts
	case *hclsyntax.TemplateWrapExpr:
		parts = []hclsyntax.Expression{e.Wrapped}
	default:
		r.errorf(e.Range(), "a filter must be a quoted string")
		return t, false
	}
	for _, p := range parts {
		switch p := p.(type) {
		case *hclsyntax.LiteralValueExpr:
			s, ok := r.stringOf(p, "a filter")
			if !ok {
				return t, false
			}
			t.text += s
			t.parts = append(t.parts, part{text: s})
		case *hclsyntax.ScopeTraversalExpr:
			v, ok := r.reference(p.Traversal)
			if !ok {
				return t, false
			}
			t.text += "${" + v.String() + "}"
			t.parts = append(t.parts, part{ref: v})
		default:
			r.errorf(p.Range(), "only a plain value can stand in ${ }; known here: %s", strings.Join(valueNames, ", "))
			return t, false
		}
	}
	return t, true
}

// reference reads the name of a value of the session.
func (r *reader) reference(t hcl.Traversal) (ref, bool) {
	v, at := reference(t)
	if v.value != noValue {
		return v, true
	}
	written := strings.TrimSpace(string(t.SourceRange().SliceBytes(r.files[at.Filename])))
	r.errorf(at, "unknown value %s%s", written, suggest(written, valueNames))
	return ref{}, false
}
