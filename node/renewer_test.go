package node

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
	"github.com/hpmq/hpmq/mqtt"
)

func TestRenewer(t *testing.T) {
	ca := testca.New(t, "lab.test")
	device := ca.ID(t, identity.Device, "pump-7")
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	node := ca.Issue(t, ca.ID(t, identity.Node, "n"))
	client := tls.Client(near, identity.ClientConfig(ca.Issue(t, device), nil, identity.ID{}))
	server := tls.Server(far, identity.ServerConfig(node, nil, tls.RequestClientCert))
	done := make(chan error, 1)
	go func() { done <- server.HandshakeContext(t.Context()) }()
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	state := client.ConnectionState()
	prove := func(id identity.ID) ([]byte, time.Time) {
		svid := ca.SVID(t, id, testca.ValidFor(time.Hour))
		proof, err := svid.Prove(&state)
		if err != nil {
			t.Fatal(err)
		}
		return proof, svid.Leaf().NotAfter
	}
	revoked := false
	r := renewer{ca.Bundle, func(*x509.Certificate) bool { return revoked }}
	own, end := prove(device)
	if until, err := r.Renew(server, mqtt.Principal{ID: device}, own); err != nil || !until.Equal(end) {
		t.Errorf("until %v, %v, want %v", until, err, end)
	}
	other, _ := prove(ca.ID(t, identity.Device, "pump-8"))
	if _, err := r.Renew(server, mqtt.Principal{ID: device}, other); err == nil || !strings.Contains(err.Error(), "pump-8") {
		t.Errorf("another identity: %v", err)
	}
	if _, err := r.Renew(far, mqtt.Principal{ID: device}, own); err == nil {
		t.Error("a connection without TLS")
	}
	revoked = true
	if _, err := r.Renew(server, mqtt.Principal{ID: device}, own); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("revoked: %v", err)
	}
}
