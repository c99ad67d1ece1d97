package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxLevels bounds the depth of a filter in a policy and with it the recursion
// of every question: a question never walks deeper than the filters reach.
const maxLevels = 128

var errShared = errors.New("want $share/GROUP/FILTER")

// validFilter says what is wrong with f as an MQTT topic filter.
func validFilter(f string) error {
	switch {
	case f == "":
		return errors.New("empty filter")
	case len(f) > 65535:
		return errors.New("filter longer than 65535 bytes")
	case !utf8.ValidString(f):
		return errors.New("filter is not UTF-8")
	case strings.ContainsFunc(f, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return errors.New("control character in filter")
	case strings.Count(f, "/") >= maxLevels:
		return fmt.Errorf("filter has more than %d levels", maxLevels)
	}
	for more := true; more; {
		var level string
		level, f, more = strings.Cut(f, "/")
		switch {
		case level == "#" && more:
			return errors.New("# is only legal as the last level")
		case len(level) > 1 && strings.ContainsAny(level, "+#"):
			return errors.New("a wildcard must be a whole level")
		}
	}
	return nil
}

// cutShare splits $share/group/filter; group is "" for an ordinary filter.
func cutShare(f string) (group, filter string, err error) {
	rest, shared := strings.CutPrefix(f, "$share/")
	if !shared {
		return "", f, nil
	}
	group, filter, ok := strings.Cut(rest, "/")
	if !ok || group == "" || filter == "" {
		return "", f, errShared
	}
	return group, filter, nil
}

// normal returns f with the one pair of spellings that mean the same made one:
// every topic has at least one level, so +/# is #.
func normal(f string) string {
	if f == "+/#" {
		return "#"
	}
	return f
}

// covers reports whether every topic that b matches is matched by a.
func covers(a, b string) bool {
	var t tree
	t.insert(a, leaf{})
	return t.covers(b, asked{}) >= 0
}
