package node

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/identity/directory"
)

// TestServerNames has machines whose own names a certificate cannot carry: the
// node gets a certificate all the same, with what it can.
func TestServerNames(t *testing.T) {
	id := identity.ID{TrustDomain: "example.com", Kind: identity.Node, Name: "paris"}
	keys, err := authority.OpenKeys(t.TempDir()+"/ca", id.TrustDomain, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := directory.Open(t.TempDir()+"/log", keys.SignerKey(), directory.Options{Signer: keys.Signer()})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	ca, err := authority.New(keys, dir, authority.Options{Node: id, Site: "paris"})
	if err != nil {
		t.Fatal(err)
	}
	var many []netip.Addr
	for i := range 40 {
		many = append(many, netip.MustParseAddr(fmt.Sprintf("10.0.%d.1", i)))
	}
	for _, tt := range []struct {
		name, host, advertise string
		addrs                 []netip.Addr
		want                  []string
	}{
		{"plain", "GW-1", "192.0.2.1", nil, []string{"gw-1", "192.0.2.1"}},
		{"underscore", "gw_1", "192.0.2.1", nil, []string{"192.0.2.1"}},
		{"in the trust domain", "gw-1.example.com", "192.0.2.1", nil, []string{"192.0.2.1"}},
		{"no name", "", "gw-1.example.net", nil, []string{"gw-1.example.net"}},
		{"many addresses", "gw-1", "192.0.2.1", many, []string{"gw-1", "192.0.2.1", "10.0.0.1", "10.0.20.1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := &Options{Advertise: tt.advertise}
			names := cfg.serverNames(id, tt.host, tt.addrs)
			key, err := identity.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			svid, err := ca.Issue(t.Context(), authority.Local{ID: id, Key: key, Names: names})
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range slices.Concat(tt.want, []string{"localhost", "127.0.0.1", "::1", "paris.node.example.com"}) {
				if err := svid.Leaf().VerifyHostname(name); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestCheckReference(t *testing.T) {
	for reference, ok := range map[string]bool{
		"": true, "lyon.example.org": true, "lyon.example.org:8883": true, "10.0.0.5:8883 [2001:db8::5]:8883": true,
		"2001:db8::5": true, "[2001:db8::5]": true,
		"lyon:": false, "lyon:0": false, "lyon:mqtt": false, "lyon:70000": false, ":8883": false, "mqtts://lyon:8883": false, "a:1 b:x": false,
	} {
		if err := checkReference("--to", reference); (err == nil) != ok {
			t.Errorf("%q: %v", reference, err)
		}
	}
}
