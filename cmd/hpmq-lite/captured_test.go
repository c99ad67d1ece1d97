package main

import (
	"errors"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy/slice"
)

// These tests put the agent into the hands of a captured node: it has a genuine
// certificate, the agent is connected to it alone or first, and it wants to open the
// device's ports to an accomplice, who is enrolled and has no grant.

// accomplice makes s ask as a thief, and returns the rule that the node would like.
func (s *site) accomplice() slice.Rule {
	s.t.Helper()
	s.anna = s.Issue(s.t, s.ID(s.t, identity.Device, "thief"))
	return slice.Rule{Cite: "evil", Callers: []identity.ID{s.anna.SVID().ID}, Ports: []slice.PortRange{{Network: "tcp", First: 1, Last: 65535}}}
}

// TestCapturedNodeGrantsNothing: whatever a node signs, alters or replays, it opens
// no port.
func TestCapturedNodeGrantsNothing(t *testing.T) {
	s := newSite(t)
	once := s.writer.sign(t, s.store.SVID().ID, s.grant()) // anna had it once
	s.up()
	s.mustPush()
	s.wantDenied("no grant for")
	evil := s.accomplice()
	own := newWriter(t) // a key of the captured node's
	forged := own.sign(t, s.store.SVID().ID, evil)
	genuine := s.writer.sign(t, s.store.SVID().ID)
	altered := append([]byte(nil), genuine...)
	altered[len(altered)-20] ^= 1
	other := s.writer.sign(t, s.ID(t, identity.Device, "valve-1"), evil) // the accomplice may reach another device
	for name, raw := range map[string][]byte{"its own rules": forged, "altered": altered, "an older one": once, "that of another device": other} {
		if err := s.bring(raw); !errors.Is(err, access.ErrRefused) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
		s.wantDenied("no grant for tcp/")
	}
}

// TestCapturedNodeHidesNothing: a node that holds back newer rules and its own
// revocation is found out by a second node, left at once and not taken again.
func TestCapturedNodeHidesNothing(t *testing.T) {
	s := newSite(t)
	evil, evilRelay := s.node, s.relay
	s.startNode("lyon", "127.0.0.1:0")
	honest, honestRelay := s.node, s.relay
	s.writer.nodes = []slice.Node{
		{ID: evil.ID(), Site: "home", Mesh: []string{evil.Addr().String()}},
		{ID: honest.ID(), Site: "lyon", Mesh: []string{honest.Addr().String()}},
	}
	device := s.store.SVID().ID
	out := newOutput()
	l, err := newLite(s.store, []uint16{s.port}, "", out, logTo(out))
	if err != nil {
		t.Fatal(err)
	}
	l.visitInterval = 50 * time.Millisecond
	stop := background(t, l.run)
	s.node, s.relay = evil, evilRelay
	s.await()
	out.await("connected to node:paris")
	if err := s.push(s.grant()); err != nil { // the last that it passes on
		t.Fatal(err)
	}
	s.wantServed()

	s.node, s.relay = honest, honestRelay
	s.await() // the agent comes by itself
	s.writer.nodes = s.writer.nodes[1:]
	s.writer.gone = []slice.Revoked{{ID: evil.ID(), Generation: 1}}
	s.mustPush(s.grant())
	out.await("connected to node:lyon")
	for changed := evil.Changed(); evil.Connected(device); changed = evil.Changed() {
		<-changed
	}
	s.wantServed()
	if l.status().Policy.Revoked != 1 {
		t.Errorf("policy: %+v", l.status().Policy)
	}
	stop()

	// After a restart the captured node is the first that it knows, and is not taken.
	fresh := newOutput()
	l, err = newLite(s.store, []uint16{s.port}, evil.Addr().String(), fresh, logTo(fresh))
	if err != nil {
		t.Fatal(err)
	}
	background(t, l.run)
	fresh.await("no node reached")
	for changed := evil.Changed(); evil.Connected(device); changed = evil.Changed() {
		<-changed
	}
	if l.link.status() != nil {
		t.Error("connected to a revoked node")
	}
}
