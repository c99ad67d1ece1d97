package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/hpmq/hpmq/node"
	"github.com/hpmq/hpmq/node/control"
)

// The values of flags of "hpmq up" that are neither text nor numbers.

// portsValue is the --ports flag: +100 shifts every port.
type portsValue struct{ shift *int }

func (p portsValue) String() string {
	if p.shift == nil || *p.shift == 0 {
		return ""
	}
	return fmt.Sprintf("%+d", *p.shift)
}

func (p portsValue) Type() string { return "SHIFT" }

func (p portsValue) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return errors.New("want a shift such as +100")
	}
	*p.shift = n
	return nil
}

// proxiesValue is the --proxy flag: mqtts=10.0.0.5,10.0.1.0/24.
type proxiesValue struct{ byListener *map[string][]netip.Prefix }

func (p proxiesValue) String() string { return "" }

func (p proxiesValue) Type() string { return "LISTENER=ADDRESS,…" }

func (p proxiesValue) Set(s string) error {
	listener, list, _ := strings.Cut(s, "=")
	if listener != control.ListenerTLS && listener != control.ListenerWebSocket {
		return fmt.Errorf("want %s=ADDRESS or %s=ADDRESS, the ports that other machines reach", control.ListenerTLS, control.ListenerWebSocket)
	}
	for text := range strings.SplitSeq(list, ",") {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return fmt.Errorf("%q: want an address such as 10.0.0.5, or a network such as 10.0.1.0/24", text)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		if *p.byListener == nil {
			*p.byListener = make(map[string][]netip.Prefix)
		}
		(*p.byListener)[listener] = append((*p.byListener)[listener], prefix.Masked())
	}
	return nil
}

// limitsValue is the --limit flag, NAME=VALUE, given as often as needed.
type limitsValue struct{ *node.Limits }

func (v limitsValue) String() string { return "" }

func (v limitsValue) Type() string { return "NAME=VALUE" }
