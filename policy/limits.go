package policy

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Limits are the ceilings of one identity over all of its connections. They are
// of the identity, not of the topics in the grant that sets them.
type Limits struct {
	PublishMessages Limit // PUBLISH packets per second
	PublishBytes    Limit // of PUBLISH packets, per second
	Connections     Limit
}

// Limit is one ceiling. The zero value is none.
type Limit struct {
	Name string `json:"name"` // as the files spell it
	N    int64  `json:"value"`
	Rule string `json:"rule"` // the rule that set it
}

// lower returns the lower of each ceiling of l, which may be nil, and o. Of equal
// ones the first stays.
func (l *Limits) lower(o *Limits) *Limits {
	if l == nil {
		return o // most have one grant with limits: it is shared
	}
	both := *l
	mine, theirs := both.all(), o.all()
	for i := range mine {
		if n := theirs[i].N; n > 0 && (mine[i].N == 0 || n < mine[i].N) {
			*mine[i] = *theirs[i]
		}
	}
	return &both
}

func (l *Limits) all() [3]*Limit {
	return [...]*Limit{&l.PublishMessages, &l.PublishBytes, &l.Connections}
}

// List returns the ceilings that there are.
func (l Limits) List() []Limit {
	var set []Limit
	for _, limit := range l.all() {
		if limit.N > 0 {
			set = append(set, *limit)
		}
	}
	return set
}

// Limits returns the ceilings of the session's identity: of each kind the lowest that
// its grants set. A limit takes away, as a deny does, so it errs to the same side: a
// limit with a condition that cannot be decided counts.
func (x *Session) Limits() Limits {
	if x.limits == nil {
		return Limits{}
	}
	return *x.limits
}

// maxCount bounds every count, so that it is a number anywhere.
const maxCount = 1_000_000_000

func (r *reader) limits(u *rule, b *hclsyntax.Block) {
	const messages, bytes, connections = "publish_messages", "publish_bytes", "connections"
	r.known(b.Body, "limits", []string{messages, bytes, connections}, nil)
	if u.limits != nil {
		r.errorf(b.DefRange(), "one limits block is enough")
		return
	}
	limit := func(name string, n int64) Limit {
		if n == 0 {
			return Limit{}
		}
		return Limit{name, n, u.cite}
	}
	u.limits = &Limits{
		PublishMessages: limit(messages, r.count(b.Body, messages)),
		PublishBytes:    limit(bytes, r.size(b.Body, bytes)),
		Connections:     limit(connections, r.count(b.Body, connections)),
	}
	if len(b.Body.Attributes) == 0 {
		r.warnf(b.DefRange(), "these limits set nothing")
	}
	if !slices.ContainsFunc(u.to.text, func(t string) bool { return !strings.HasPrefix(t, "function:") }) {
		r.warnf(b.DefRange(), "functions have no connections: nothing is limited")
	}
}

// count returns an attribute that is a number from 1, or 0.
func (r *reader) count(b *hclsyntax.Body, name string) int64 {
	n, at, ok := r.integer(b, name)
	if ok && (n < 1 || n > maxCount) {
		r.errorf(at, "%s is between 1 and %d", name, maxCount)
		return 0
	}
	return n
}
