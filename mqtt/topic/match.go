package topic

import "strings"

// Match reports whether filter matches name. It does not allocate.
func Match(filter, name string) bool {
	if hidden(filter, name) {
		return false
	}
	for {
		if filter == "#" {
			return true
		}
		want, filterRest, filterMore := strings.Cut(filter, "/")
		got, nameRest, nameMore := strings.Cut(name, "/")
		switch {
		case want != "+" && want != got:
			return false
		case !nameMore:
			return !filterMore || filterRest == "#" // a/# matches a
		case !filterMore:
			return false
		}
		filter, name = filterRest, nameRest
	}
}

// hidden reports whether name begins with $ and filter with a wildcard, which
// then does not match it [MQTT-4.7.2-1].
func hidden(filter, name string) bool {
	return name != "" && name[0] == '$' && filter != "" && (filter[0] == '+' || filter[0] == '#')
}

// Covers reports whether a matches every name that b matches. It does not
// allocate.
func Covers(a, b string) bool {
	if hidden(a, b) {
		return false
	}
	x, y := newPattern(a), newPattern(b)
	if y.open && !x.open || !x.open && x.levels != y.levels || x.levels > y.levels {
		return false
	}
	for range x.levels {
		if want, got := x.next(), y.next(); want != "+" && want != got {
			return false
		}
	}
	return true
}

// Overlaps reports whether some name matches both a and b. It does not
// allocate.
func Overlaps(a, b string) bool {
	if hidden(a, b) || hidden(b, a) {
		return false
	}
	x, y := newPattern(a), newPattern(b)
	if !x.open && x.levels < y.levels || !y.open && y.levels < x.levels {
		return false
	}
	for range min(x.levels, y.levels) {
		if p, q := x.next(), y.next(); p != "+" && q != "+" && p != q {
			return false
		}
	}
	return true
}

// Common returns how many leading levels of filter go with the levels of object, a name
// or a filter: each is the same, or filter has a wildcard there. `#` counts once. It
// does not allocate.
func Common(filter, object string) int {
	if hidden(filter, object) {
		return 0
	}
	for n := 0; ; n++ {
		if filter == "#" {
			return n + 1
		}
		want, filterRest, filterMore := strings.Cut(filter, "/")
		got, objectRest, objectMore := strings.Cut(object, "/")
		switch {
		case want != "+" && want != got:
			return n
		case !filterMore || !objectMore:
			return n + 1
		}
		filter, object = filterRest, objectRest
	}
}

// pattern is a filter as its levels before `#` and whether `#` follows. It stands for
// the names with these levels and, if open, any more after them. A name has at least
// one level, and a single one is not empty; so `#` is the pattern `+/#` and `/#` is
// `/+/#`.
type pattern struct {
	rest   string
	levels int
	open   bool
}

func newPattern(filter string) pattern {
	switch filter {
	case "#":
		filter = "+/#"
	case "/#":
		filter = "/+/#"
	}
	p := pattern{rest: filter}
	p.rest, p.open = strings.CutSuffix(filter, "/#")
	p.levels = strings.Count(p.rest, "/") + 1
	return p
}

// next takes the next level off p.
func (p *pattern) next() string {
	level, rest, _ := strings.Cut(p.rest, "/")
	p.rest = rest
	return level
}
