package topic

import (
	"errors"
	"strings"
	"testing"
)

// [MQTT-1.5.4-1] [MQTT-4.7.0-1] [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1] [MQTT-4.7.3-2] [MQTT-4.7.3-3]
func TestValid(t *testing.T) {
	deep := strings.Repeat("/", MaxLevels-1)
	for _, tt := range []struct {
		s            string
		name, filter error
	}{
		{"a", nil, nil},
		{"/", nil, nil},
		{"a b/\uFEFF/\U0001F600", nil, nil},
		{"$SYS/x", nil, nil},
		{"", errEmpty, errEmpty},
		{"a\x00", errNull, errNull},
		{"a\xff", errUTF8, errUTF8},
		{"\xed\xa0\x80", errUTF8, errUTF8},
		{strings.Repeat("a", MaxLen), nil, nil},
		{strings.Repeat("a", MaxLen+1), errLong, errLong},
		{deep, nil, nil},
		{deep + "/", errLevels, errLevels},
		{"#", errWildcard, nil},
		{"+", errWildcard, nil},
		{"a/+/b/#", errWildcard, nil},
		{"a/#/b", errWildcard, errHash},
		{"a#", errWildcard, errHash},
		{"a/b#", errWildcard, errHash},
		{"#/", errWildcard, errHash},
		{"a+", errWildcard, errPlus},
		{"a/+b/c", errWildcard, errPlus},
		{"++", errWildcard, errPlus},
		{"$share", nil, nil},
		{"$share/g/a/+/#", errWildcard, nil},
		{"$share/g/a#", errWildcard, errHash},
		{"$share/g", nil, errShare},
	} {
		if err := ValidName(tt.s); !errors.Is(err, tt.name) {
			t.Errorf("ValidName(%.20q) = %v, want %v", tt.s, err, tt.name)
		}
		if err := ValidFilter(tt.s); !errors.Is(err, tt.filter) {
			t.Errorf("ValidFilter(%.20q) = %v, want %v", tt.s, err, tt.filter)
		}
	}
}

// [MQTT-4.8.2-1] [MQTT-4.8.2-2]
func TestParseShared(t *testing.T) {
	for _, tt := range []struct {
		s, group, filter string
		shared           bool
		err              error
	}{
		{"a/b", "", "a/b", false, nil},
		{"$share", "", "$share", false, nil},
		{"$shared/g/a", "", "$shared/g/a", false, nil},
		{"$share/g/a/+", "g", "a/+", true, nil},
		{"$share/g//", "g", "/", true, nil},
		{"$share/g/#", "g", "#", true, nil},
		{"$share/", "", "", true, errShare},
		{"$share//a", "", "", true, errShare},
		{"$share/g", "", "", true, errShare},
		{"$share/g/", "", "", true, errShare},
		{"$share/g+/a", "", "", true, errGroup},
		{"$share/#/a", "", "", true, errGroup},
		{"$share/g\x00/a", "", "", true, errNull},
		{"$share/\xff/a", "", "", true, errUTF8},
		{"$share/g/a#", "", "", true, errHash},
		{"$share/g/" + strings.Repeat("/", MaxLevels), "", "", true, errLevels},
		{"$share/g/" + strings.Repeat("a", MaxLen), "", "", true, errLong},
	} {
		group, filter, ok, err := ParseShared(tt.s)
		if group != tt.group || filter != tt.filter || ok != tt.shared || !errors.Is(err, tt.err) {
			t.Errorf("ParseShared(%.20q) = %q, %q, %v, %v", tt.s, group, filter, ok, err)
		}
		if err != nil {
			continue
		}
		if g, f := CutShare(tt.s); g != group || f != filter {
			t.Errorf("CutShare(%.20q) = %q, %q", tt.s, g, f)
		}
	}
}

func TestValidDoesNotAllocate(t *testing.T) {
	slashes := strings.Repeat("/", MaxLen)
	if n := testing.AllocsPerRun(100, func() {
		if ValidName("site/a/pump/7") != nil || ValidFilter("$share/g/site/+/#") != nil || ValidFilter(slashes) == nil {
			t.Error("wrong answer")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// The longest filter that a client can send costs microseconds.
func BenchmarkValidFilterSlashes(b *testing.B) {
	slashes := strings.Repeat("/", MaxLen)
	b.ReportAllocs()
	for b.Loop() {
		_ = ValidFilter(slashes)
	}
}
