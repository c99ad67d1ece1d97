package main

import (
	"crypto/ed25519"
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/testca"
	"github.com/hpmq/hpmq/policy"
)

// TestRevokedBeforeConnect: a connection whose handshake is over and whose
// CONNECT comes after the key was given up and the name enrolled again.
func TestRevokedBeforeConnect(t *testing.T) {
	ca := testca.New(t, "lab.test")
	device := ca.ID(t, identity.Device, "pump-7")
	signer := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	dir, err := directory.Open(filepath.Join(t.TempDir(), "log"), signer.Public().(ed25519.PublicKey), directory.Options{Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	store, err := identity.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	self := ca.Issue(t, ca.ID(t, identity.Node, "n"))
	if err := store.Save(self.SVID(), ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	n := &node{id: self.SVID().ID, site: "home", store: store, directory: dir, policy: policy.NewLive(policy.LiveOptions{TrustDomain: "lab.test"})}
	put := func(p ...directory.Payload) {
		t.Helper()
		if _, err := dir.Put(p...); err != nil {
			t.Fatal(err)
		}
	}
	put(directory.Identity{ID: device, State: directory.Active, Generation: 1})

	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	client := tls.Client(near, identity.ClientConfig(ca.Issue(t, device, testca.Generation(t, 1)), nil, identity.ID{}))
	server := tls.Server(far, identity.ServerConfig(self, nil, tls.RequestClientCert, identity.Revoked(n.revoked)))
	done := make(chan error, 1)
	go func() { done <- server.HandshakeContext(t.Context()) }()
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p, err := n.admitTLS(server)
	if err != nil {
		t.Fatal(err)
	}
	rights := newAuthorizer(n)
	if rights.Rights(p) == nil {
		t.Fatal("the device may not connect")
	}
	put(directory.Revocation{ID: device, Generation: 1}, directory.Identity{ID: device, State: directory.Replaced, Generation: 1})
	put(directory.Identity{ID: device, State: directory.Active, Generation: 2})
	if rights.Rights(p) != nil {
		t.Error("the key that was given up has rights")
	}
	if p.Generation = 2; rights.Rights(p) == nil {
		t.Error("the new key has none")
	}
}
