package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// test is a test block.
type test struct {
	name    string
	as      Subject
	targets map[identity.ID]Subject // the attributes that `connect` lines assume of the other sides
	cases   []testCase
}

type testCase struct {
	line literal
	want bool
}

// TestResult is the outcome of one line of a test block.
type TestResult struct {
	Test   string `json:"test"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	Case   string `json:"case"` // as written
	Want   bool   `json:"want"`
	Got    bool   `json:"got"`
	Reason string `json:"reason"` // of the decision
	at     hcl.Range
}

// Passed reports whether the policy decided as the line says.
func (t TestResult) Passed() bool { return t.Want == t.Got }

// RunTests runs every test block and returns a result per line.
func (s *Set) RunTests() []TestResult {
	var out []TestResult
	for _, t := range s.tests {
		x := s.Session(t.as)
		for _, c := range t.cases {
			q, err := s.parseQuestion(c.line.text)
			res := TestResult{Test: t.name, File: c.line.at.Filename, Line: c.line.at.Start.Line, Case: c.line.text, Want: c.want, at: c.line.at}
			if err != nil { // refused by Load already
				res.Got, res.Reason = !c.want, err.Error()
			} else {
				d := s.decide(x, q, func(id identity.ID) Subject { return t.target(id) })
				res.Got, res.Reason = d.Allowed, d.Reason()
			}
			out = append(out, res)
		}
	}
	return out
}

func (t *test) target(id identity.ID) Subject {
	if sub, ok := t.targets[id]; ok {
		return sub
	}
	return Subject{ID: id}
}

// Check loads files, runs their tests and lints them. The set is nil when the
// policy must not be put in force: it does not compile, or one of its own tests
// fails.
func Check(files map[string][]byte, trustDomain string) (*Set, Diagnostics) {
	s, found := Load(files, trustDomain)
	if s == nil {
		return nil, found
	}
	r := &report{files: files, found: found}
	for _, t := range s.RunTests() {
		if !t.Passed() {
			r.add(SeverityError, t.at, fmt.Sprintf("test %q: %q is %s", t.Test, t.Case, verdict(t.Got)), t.Reason)
		}
	}
	s.lint(r)
	found = r.sorted()
	if found.HasErrors() {
		return nil, found
	}
	return s, found
}

func verdict(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}

// question is a line such as "publish site/a" or "connect device:x tcp/22".
type question struct {
	action string
	object string
	target identity.ID // of connect
	port   string      // of connect
}

var questionWords = []string{"publish", "subscribe", "will", "retain", "receive", "connect"}

// domain is the trust domain that short names are in.
func (s *Set) domain() string { return cmp.Or(s.trustDomain, "policy.test") }

func (s *Set) parseQuestion(line string) (question, error) {
	action, object, _ := strings.Cut(strings.TrimSpace(line), " ")
	return s.newQuestion(action, strings.TrimSpace(object))
}

func (s *Set) newQuestion(action, object string) (question, error) {
	q := question{action: action, object: object}
	if !slices.Contains(questionWords, action) {
		return q, fmt.Errorf("cannot ask %q%s", action, suggest(action, questionWords))
	}
	if action == "connect" {
		return q, s.parseTarget(&q)
	}
	err := validFilter(object)
	if share, _ := topic.CutShare(object); err == nil && action != "subscribe" && (share != "" || hasWildcard(object)) {
		err = errors.New("a topic has no wildcards")
	}
	if err != nil {
		return q, fmt.Errorf("%s %q: %w", action, object, err)
	}
	return q, nil
}

func hasWildcard(name string) bool { return strings.ContainsAny(name, "+#") }

// parseTarget reads "device:x tcp/22", "x:22" or "device:x:22/udp".
func (s *Set) parseTarget(q *question) error {
	wrong := fmt.Errorf("connect %q: want device:NAME tcp/PORT, or NAME:PORT", q.object)
	fields := strings.Fields(q.object)
	var name, port string
	switch len(fields) {
	case 1:
		i := strings.LastIndexByte(fields[0], ':')
		if i < 0 {
			return wrong
		}
		name, port = fields[0][:i], fields[0][i+1:]
		if number, protocol, ok := strings.Cut(port, "/"); ok {
			port = protocol + "/" + number
		} else {
			port = "tcp/" + port
		}
	case 2:
		name, port = fields[0], fields[1]
	default:
		return wrong
	}
	id, err := identity.ParseShort(s.domain(), name)
	if err != nil {
		return fmt.Errorf("connect %q: %w", q.object, err)
	}
	if p, err := parsePorts(port); err != nil || p.First != p.Last {
		return wrong
	}
	q.target, q.port = id, port
	return nil
}

// decide answers a question of session x.
func (s *Set) decide(x *Session, q question, lookup func(identity.ID) Subject) Decision {
	switch q.action {
	case "publish":
		return x.Publish(q.object, 0, false, 0)
	case "retain":
		return x.Publish(q.object, 0, true, 0)
	case "will":
		return x.Will(q.object, 0, false, 0)
	case "subscribe":
		return x.Subscribe(q.object)
	case "receive":
		return x.Receive(q.object)
	}
	p, err := parsePorts(q.port)
	if err != nil {
		return Decision{reason: err.Error()}
	}
	return s.Connect(x.Subject(), lookup(q.target), p.Network, p.First)
}

func (r *reader) test(b *hclsyntax.Block) {
	t := &test{name: b.Labels[0], targets: map[identity.ID]Subject{}}
	r.known(b.Body, "test", []string{"as", "targets", "allow", "deny"}, nil)
	if a := b.Body.Attributes["as"]; a != nil {
		t.as = r.subject(a.Expr, "as")
	} else {
		r.errorf(b.DefRange(), "test %q needs as = { id = \"device:…\" }", t.name)
	}
	for _, e := range r.list(b.Body, "targets") {
		sub := r.subject(e, "targets")
		t.targets[sub.ID] = sub
	}
	for _, want := range []bool{true, false} {
		list := map[bool]string{true: "allow", false: "deny"}[want]
		for _, l := range r.texts(b.Body, list) {
			if _, err := r.set.parseQuestion(l.text); err != nil {
				r.errorf(l.at, "%v", err)
				continue
			}
			t.cases = append(t.cases, testCase{l, want})
		}
	}
	if len(t.cases) == 0 {
		r.warnf(b.DefRange(), "test %q asks nothing", t.name)
	}
	r.set.tests = append(r.set.tests, t)
}

var subjectKeys = []string{"id", "site", "session_site", "labels"}

// subject reads { id = "device:x", site = "…", labels = { … } }. The session's
// site is the home site unless session_site says otherwise.
func (r *reader) subject(e hclsyntax.Expression, where string) Subject {
	var sub Subject
	f := r.fields(e, where, subjectKeys)
	if f == nil {
		return sub
	}
	id, ok := f["id"]
	if !ok {
		r.errorf(e.Range(), "%s needs id = \"device:…\"", where)
		return sub
	}
	if name, ok := strings.CutPrefix(id.text, sitePrefix); ok {
		return r.siteNamed(name, f, id.at)
	}
	var err error
	if sub.ID, err = identity.ParseShort(r.set.domain(), id.text); err != nil {
		r.errorf(id.at, "%v", err)
	}
	sub.Site = f["site"].text
	sub.SessionSite = cmp.Or(f["session_site"].text, sub.Site)
	if object, ok := e.(*hclsyntax.ObjectConsExpr); ok {
		for _, item := range object.Items {
			if key, diags := item.KeyExpr.Value(nil); !diags.HasErrors() && key.Type().FriendlyName() == "string" && key.AsString() == "labels" {
				sub.Labels = r.labels(item.ValueExpr)
			}
		}
	}
	return sub
}
