package identity_test

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

// channel returns both ends' states of one TLS connection.
func channel(t *testing.T, ca *testca.CA, version uint16) (client, server *tls.ConnectionState) {
	t.Helper()
	node, device := ca.Issue(t, ca.ID(t, identity.Node, "n")), ca.Issue(t, ca.ID(t, identity.Device, "d"))
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	serverConf := identity.ServerConfig(node, nil, tls.RequestClientCert, identity.AllowTLS12)
	clientConf := identity.ClientConfig(device, nil, identity.ID{}, identity.AllowTLS12)
	clientConf.MaxVersion = version
	a, b := tls.Client(near, clientConf), tls.Server(far, serverConf)
	done := make(chan error, 1)
	go func() { done <- b.HandshakeContext(t.Context()) }()
	if err := a.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	x, y := a.ConnectionState(), b.ConnectionState()
	return &x, &y
}

func TestProofOfPossession(t *testing.T) {
	ca, other := testca.New(t, "lab.test"), testca.New(t, "lab.test")
	device := ca.ID(t, identity.Device, "d")
	client, server := channel(t, ca, tls.VersionTLS13)
	renewed := ca.SVID(t, device, testca.ValidFor(time.Hour))
	proof, err := renewed.Prove(client)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	id, leaf, err := ca.Bundle().Proven(server, proof, now)
	if err != nil || id != device || !leaf.Equal(renewed.Leaf()) {
		t.Fatalf("%v, %v", id, err)
	}
	_, elsewhere := channel(t, ca, tls.VersionTLS13)
	stranger := &identity.SVID{ID: device, Chain: renewed.Chain, Key: ca.SVID(t, device).Key}
	stolen, err := stranger.Prove(client)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.SVID(t, device).Prove(client)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(proof)
	bad[10] ^= 1
	for _, tt := range []struct {
		name  string
		state *tls.ConnectionState
		proof []byte
		now   time.Time
		want  string
	}{
		{"another connection", elsewhere, proof, now, "proof of possession"},
		{"another key", server, stolen, now, "proof of possession"},
		{"another authority", server, foreign, now, ""},
		{"expired", server, proof, now.Add(48 * time.Hour), ""},
		{"changed", server, bad, now, "proof of possession"},
		{"cut", server, proof[:len(proof)-1], now, "malformed"},
		{"empty", server, nil, now, "malformed"},
		{"no certificate", server, []byte{0, 0}, now, "malformed"},
		{"long signature", server, []byte{255, 255, 1}, now, "malformed"},
		{"too long", server, append(slices.Clone(proof), make([]byte, 20<<10)...), now, "malformed"},
	} {
		if _, _, err := ca.Bundle().Proven(tt.state, tt.proof, tt.now); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	old, _ := channel(t, ca, tls.VersionTLS12)
	if _, err := renewed.Prove(old); err == nil {
		t.Error("TLS 1.2 binds nothing")
	}
}

func FuzzProven(f *testing.F) {
	f.Add([]byte{0, 1, 2, 0x30})
	f.Add([]byte{255, 255})
	bundle := identity.NewBundle("lab.test")
	f.Fuzz(func(t *testing.T, proof []byte) {
		if _, _, err := bundle.Proven(&tls.ConnectionState{}, proof, time.Now()); err == nil {
			t.Error("proven without a root")
		}
	})
}
