package wasm

import "fmt"

// Capabilities is the set of host calls that an instance may make beyond log
// and error. The zero value grants none.
type Capabilities uint8

// The capabilities.
const (
	CapPrev    Capabilities = 1 << iota // "prev": previous payloads
	CapKVRead                           // "kv:read"
	CapKVWrite                          // "kv:write"
	CapClock                            // "clock": the real time
	CapRandom                           // "random": real random numbers
)

var capabilityNames = map[string]Capabilities{
	"prev": CapPrev, "kv:read": CapKVRead, "kv:write": CapKVWrite, "clock": CapClock, "random": CapRandom,
}

// ParseCapabilities reads the names that policy uses.
func ParseCapabilities(names []string) (Capabilities, error) {
	var c Capabilities
	for _, n := range names {
		bit, ok := capabilityNames[n]
		if !ok {
			return 0, fmt.Errorf("unknown capability %q; there are prev, kv:read, kv:write, clock and random", n)
		}
		c |= bit
	}
	return c, nil
}

// Has reports whether all of want are granted.
func (c Capabilities) Has(want Capabilities) bool { return c&want == want }
