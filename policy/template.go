package policy

import (
	"strings"
	"unicode/utf8"
)

// template is a filter as a policy file writes it: text with references to
// values of the session.
type template struct {
	text  string // as written, for people
	parts []part
}

// part is a piece of text, or a reference.
type part struct {
	text string
	ref  ref
}

// ref names a value of the session; the zero ref is none.
type ref struct {
	value valueName
	label string // for labelValue
}

type valueName byte

const (
	noValue valueName = iota
	nameValue
	kindValue
	siteValue
	sessionSiteValue
	labelValue
)

// valueNames are the spellings of the references, for messages.
var valueNames = []string{"id.name", "id.kind", "id.site", "id.labels.NAME", "session.site"}

func (r ref) String() string {
	switch r.value {
	case nameValue:
		return "id.name"
	case kindValue:
		return "id.kind"
	case siteValue:
		return "id.site"
	case sessionSiteValue:
		return "session.site"
	case labelValue:
		return "id.labels." + r.label
	case noValue:
	}
	return ""
}

func (r ref) lookup(sub *Subject) string {
	switch r.value {
	case nameValue:
		return sub.ID.Name
	case kindValue:
		return string(sub.ID.Kind)
	case siteValue:
		return sub.Site
	case sessionSiteValue:
		return sub.SessionSite
	case labelValue:
		return sub.Labels[r.label]
	case noValue:
	}
	return ""
}

// sample returns the template with a plain word for each reference, to check its shape.
func (t *template) sample(word string) string {
	var b strings.Builder
	for _, p := range t.parts {
		if p.ref.value != noValue {
			b.WriteString(word)
		} else {
			b.WriteString(p.text)
		}
	}
	return b.String()
}

// expand returns the filter for sub. problem says which value is missing or
// unusable; the filter is then of no use.
func (t *template) expand(sub *Subject) (filter, problem string) {
	if len(t.parts) == 1 && t.parts[0].ref.value == noValue {
		return t.parts[0].text, ""
	}
	b := make([]byte, 0, 64)
	for _, p := range t.parts {
		if p.ref.value == noValue {
			b = append(b, p.text...)
			continue
		}
		v := p.ref.lookup(sub)
		if bad := unusable(v); bad != "" {
			return "", p.ref.String() + " " + bad
		}
		b = append(b, v...)
	}
	return string(b), ""
}

// widen returns the filter for sub with + for each level with a missing or unusable
// value: the filter of a deny errs to this side.
func (t *template) widen(sub *Subject) string {
	const missing = "\x00" // never in a filter
	var b strings.Builder
	for _, p := range t.parts {
		v := p.text
		if p.ref.value != noValue {
			if v = p.ref.lookup(sub); unusable(v) != "" {
				v = missing
			}
		}
		b.WriteString(v)
	}
	levels := strings.Split(b.String(), "/")
	for i, l := range levels {
		if strings.Contains(l, missing) {
			levels[i] = "+"
		}
	}
	return strings.Join(levels, "/")
}

// unusable says why v may not stand in a filter, or "". A value must stay one literal
// level, wherever it comes from.
func unusable(v string) string {
	if v == "" {
		return "has no value"
	}
	for i := range len(v) {
		if c := v[i]; c < ' ' || c == '/' || c == '+' || c == '#' || c == '$' || c == 0x7f {
			return "holds a character that is not allowed in a topic level"
		}
	}
	if len(v) > 255 || !utf8.ValidString(v) {
		return "is too long or not UTF-8"
	}
	return ""
}
