package policy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Certificate holds the rules of the grants about the certificates of one identity. A
// zero field leaves the default.
type Certificate struct {
	Lifetime time.Duration // from the issue on
	Grace    time.Duration // after the end, in which the certificate may still renew
	MaxStale time.Duration // age of the newest directory head up to which an ended one is served
}

// The bounds of each field of a [Certificate].
const (
	minCertificate = time.Minute
	maxCertificate = 365 * day
	day            = 24 * time.Hour
)

// Certificate returns the rules of the grants of sub about its certificates: of each
// field the lowest. A condition that cannot be decided grants nothing, as anywhere, and
// the default stays. The session's site has no influence: the certificate is the same
// wherever its owner connects.
func (s *Set) Certificate(sub Subject) Certificate {
	var c Certificate
	m, ok := s.member(sub)
	if !ok {
		return c
	}
	for _, i := range s.rulesFor(&m) {
		r := s.rules[i]
		if r.certificate == nil {
			continue
		}
		if applies, _ := r.applies(&m); applies {
			c.lower(r.certificate)
		}
	}
	return c
}

func (c *Certificate) lower(o *Certificate) {
	for _, f := range []struct{ mine, other *time.Duration }{
		{&c.Lifetime, &o.Lifetime}, {&c.Grace, &o.Grace}, {&c.MaxStale, &o.MaxStale},
	} {
		if *f.other > 0 && (*f.mine == 0 || *f.other < *f.mine) {
			*f.mine = *f.other
		}
	}
}

func (r *reader) certificate(u *rule, b *hclsyntax.Block) {
	r.known(b.Body, "certificate", []string{"lifetime", "grace", "max_stale"}, nil)
	if u.certificate != nil {
		r.errorf(b.DefRange(), "one certificate block is enough")
		return
	}
	u.certificate = &Certificate{
		Lifetime: r.days(b.Body, "lifetime"),
		Grace:    r.days(b.Body, "grace"),
		MaxStale: r.days(b.Body, "max_stale"),
	}
	if len(b.Body.Attributes) == 0 {
		r.warnf(b.DefRange(), "this certificate block sets nothing")
	}
	if u.when != nil && u.when.asksSessionSite() {
		r.errorf(b.DefRange(), "a certificate is the same at every site, but `when` asks for session.site: use id.site, or a grant of its own")
	}
}

// asksSessionSite reports whether the condition names session.site.
func (c *condition) asksSessionSite() bool {
	for _, t := range c.expr.Variables() {
		if v, _ := reference(t); v.value == sessionSiteValue {
			return true
		}
	}
	return false
}

// days returns an attribute such as "7d" or "1d12h", or 0.
func (r *reader) days(b *hclsyntax.Body, name string) time.Duration {
	s, at, ok := r.text(b, name)
	if !ok {
		return 0
	}
	d, ok := parseDays(s)
	if !ok {
		r.errorf(at, "%s must be a duration such as \"7d\", \"12h\" or \"90m\"", name)
		return 0
	}
	if d < minCertificate || d > maxCertificate {
		r.errorf(at, "%s is between \"1m\" and \"365d\"", name)
		return 0
	}
	return d
}

// parseDays reads whole days, a duration of Go's, or the one before the other.
func parseDays(s string) (time.Duration, bool) {
	var n uint64
	if i := strings.IndexByte(s, 'd'); i >= 0 {
		var err error
		if n, err = strconv.ParseUint(s[:i], 10, 16); err != nil {
			return 0, false
		}
		if s = s[i+1:]; s == "" {
			return time.Duration(n) * day, true
		}
		if !slices.Contains([]byte("0123456789"), s[0]) {
			return 0, false // the sign of the rest
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d > 2*maxCertificate {
		return 2 * maxCertificate, err == nil
	}
	return time.Duration(n)*day + d, true
}
