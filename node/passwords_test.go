package node

import (
	"testing"

	"github.com/hpmq/hpmq/identity"
)

func TestLimitedAddress(t *testing.T) {
	for host, want := range map[string]string{
		"192.0.2.7":            "192.0.2.7",
		"::ffff:192.0.2.7":     "192.0.2.7",
		"2001:db8:0:1:2::3":    "2001:db8:0:1::/64",
		"2001:db8:0:1::9%eth0": "2001:db8:0:1::/64",
		"unix":                 "unix",
		"":                     "",
	} {
		if got := limitedAddress(host); got != want {
			t.Errorf("%q counts for %q, want %q", host, got, want)
		}
	}
}

func TestMayHavePassword(t *testing.T) {
	for _, tt := range []struct {
		kind identity.Kind
		name string
		want bool
	}{
		{identity.Device, "pump-7", true},
		{identity.Device, "local", true},
		{identity.Service, "dashboard", true},
		{identity.Service, "local", false},
		{identity.Service, "guest", false},
		{identity.User, "admin", false},
		{identity.Node, "home-1", false},
		{identity.Function, "f", false},
	} {
		if err := mayHavePassword(identity.ID{TrustDomain: "lab.test", Kind: tt.kind, Name: tt.name}); (err == nil) != tt.want {
			t.Errorf("%s:%s: %v, want %v", tt.kind, tt.name, err, tt.want)
		}
	}
	if mayHavePassword(identity.ID{}) == nil {
		t.Error("nobody may have a password")
	}
}
