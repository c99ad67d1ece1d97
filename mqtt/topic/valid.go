package topic

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// The limits of a name or filter. MaxLen is the protocol's [MQTT-4.7.3-3].
// MaxLevels is ours: comparing and storing cost by the level, and a filter of
// 65,535 slashes must not cost anything.
const (
	MaxLen    = 1<<16 - 1
	MaxLevels = 200
)

var (
	errEmpty    = errors.New("is empty [MQTT-4.7.3-1]")
	errNull     = errors.New("contains U+0000 [MQTT-4.7.3-2]")
	errUTF8     = errors.New("is not UTF-8 [MQTT-1.5.4-1]")
	errLong     = errors.New("is longer than 65535 bytes [MQTT-4.7.3-3]")
	errLevels   = errors.New("has more than 200 levels")
	errWildcard = errors.New("contains a wildcard [MQTT-4.7.0-1]")
	errHash     = errors.New("has a # that is not alone at its end [MQTT-4.7.1-1]")
	errPlus     = errors.New("has a + that is not alone in its level [MQTT-4.7.1-2]")
	errShare    = errors.New("is not $share/NAME/FILTER [MQTT-4.8.2-1]")
	errGroup    = errors.New("has a wildcard in its share name [MQTT-4.8.2-2]")
)

// ValidName returns the fault of s as a Topic Name, or nil. It does not allocate. The
// error reads on from the name: "is empty".
func ValidName(s string) error {
	if err := validText(s); err != nil {
		return err
	}
	if strings.ContainsAny(s, "+#") { // [MQTT-4.7.0-1]
		return errWildcard
	}
	return nil
}

// ValidFilter returns the fault of s as a Topic Filter, or nil. A filter that begins
// with $share/ has to be a valid shared subscription. It does not allocate. The error
// reads on from the filter: "is empty".
func ValidFilter(s string) error {
	if isShared(s) {
		_, _, _, err := ParseShared(s)
		return err
	}
	return validPlain(s)
}

// validPlain is ValidFilter for a filter that is not shared.
func validPlain(s string) error {
	if err := validText(s); err != nil {
		return err
	}
	for more := true; more; {
		var level string
		level, s, more = strings.Cut(s, "/")
		switch {
		case level == "+":
		case level == "#" && !more:
		case strings.IndexByte(level, '#') >= 0: // [MQTT-4.7.1-1]
			return errHash
		case strings.IndexByte(level, '+') >= 0: // [MQTT-4.7.1-2]
			return errPlus
		}
	}
	return nil
}

// validText applies the rules that names and filters share, the cheap ones
// first.
func validText(s string) error {
	switch {
	case s == "": // [MQTT-4.7.3-1]
		return errEmpty
	case len(s) > MaxLen: // [MQTT-4.7.3-3]
		return errLong
	case strings.Count(s, "/") >= MaxLevels:
		return errLevels
	case strings.IndexByte(s, 0) >= 0: // [MQTT-4.7.3-2]
		return errNull
	case !utf8.ValidString(s): // [MQTT-1.5.4-1]
		return errUTF8
	}
	return nil
}

const sharePrefix = "$share/"

func isShared(s string) bool { return strings.HasPrefix(s, sharePrefix) }

// ParseShared takes the filter of a shared subscription, $share/GROUP/FILTER, apart. ok
// is false, and filter is s, for one that is not shared. A shared one with an invalid
// part is an error [MQTT-4.8.2-1] [MQTT-4.8.2-2].
func ParseShared(s string) (group, filter string, ok bool, err error) {
	if !isShared(s) {
		return "", s, false, nil
	}
	if len(s) > MaxLen {
		return "", "", true, errLong
	}
	group, filter = CutShare(s)
	switch {
	case group == "": // [MQTT-4.8.2-1]
		return "", "", true, errShare
	case strings.ContainsAny(group, "+#"): // [MQTT-4.8.2-2]
		return "", "", true, errGroup
	case strings.IndexByte(group, 0) >= 0:
		return "", "", true, errNull
	case !utf8.ValidString(group):
		return "", "", true, errUTF8
	}
	if err := validPlain(filter); err != nil {
		return "", "", true, err
	}
	return group, filter, true, nil
}

// CutShare is ParseShared for a filter with parts that the caller checks, or has
// checked. group is empty, and filter is s, for one that is not shared.
func CutShare(s string) (group, filter string) {
	if !isShared(s) {
		return "", s
	}
	group, filter, _ = strings.Cut(s[len(sharePrefix):], "/")
	if group == "" || filter == "" {
		return "", s
	}
	return group, filter
}
