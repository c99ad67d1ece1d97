package main

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy/slice"
)

// testRules are the rules of pump-7 in a directory of its own.
type testRules struct {
	*rules

	writer *writer
	device identity.ID
	anna   identity.ID
	node   *identity.SVID
}

func newTestRules(t *testing.T) *testRules {
	t.Helper()
	ca := testca.New(t, "lab.test")
	r := &testRules{writer: newWriter(t), device: ca.ID(t, identity.Device, "pump-7"), anna: ca.ID(t, identity.User, "anna")}
	r.node = ca.SVID(t, ca.ID(t, identity.Node, "paris"), testca.Generation(t, 3))
	store := enrol(t, ca, t.TempDir(), r.device, "127.0.0.1:1", r.writer.root)
	r.restart(t, store)
	return r
}

// restart begins anew with what is on disk.
func (r *testRules) restart(t *testing.T, store *identity.Store) {
	t.Helper()
	enrolled, err := store.Enrolment()
	if err != nil {
		t.Fatal(err)
	}
	r.rules = newRules(store, enrolled, access.NewAgent(access.AgentOptions{Source: store}), logTo(newOutput()))
	r.load()
}

func (r *testRules) grant() slice.Rule {
	return slice.Rule{Cite: "g", Callers: []identity.ID{r.anna}, Ports: []slice.PortRange{{Network: "tcp", First: 80, Last: 80}}}
}

func (r *testRules) allowed() bool {
	s := r.inForce()
	if s == nil {
		return false
	}
	_, ok := timed{s, r.now}.Allow(r.anna, "tcp", 80)
	return ok
}

// What an agent does not take, and what it goes on with then.
func TestRulesRefused(t *testing.T) {
	r := newTestRules(t)
	older := r.writer.sign(t, r.device, r.grant())
	current := r.writer.sign(t, r.device)
	if err := r.take(r.node.ID, current); err != nil {
		t.Fatal(err)
	}
	newer := r.writer.sign(t, r.device, r.grant())
	torn := newer[:len(newer)-1]
	flipped := append([]byte(nil), newer...)
	flipped[len(flipped)/2] ^= 1
	other := r.device
	other.Name = "pump-8"
	ended := *r.writer
	ended.until = time.Now().Add(-time.Second)
	counted := slice.RefusalCounts{}
	for name, tt := range map[string]struct {
		raw    []byte
		want   string
		reason slice.Reason
	}{
		"older":             {older, "before the one in force", slice.Earlier},
		"of another fabric": {newWriter(t).sign(t, r.device, r.grant()), "writer did not sign", slice.Forged},
		"another target":    {r.writer.sign(t, other, r.grant()), "for device:pump-8, not for device:pump-7", slice.OtherTarget},
		"ended":             {ended.sign(t, r.device, r.grant()), "the clock of device:pump-7 says", slice.Ended},
		"torn":              {torn, "EOF", slice.Malformed},
		"altered":           {flipped, "policy slice", slice.Forged},
		"too large":         {make([]byte, slice.MaxBytes+1), "at most", slice.TooLarge},
		"nothing":           {nil, "EOF", slice.Malformed},
	} {
		err := r.take(r.node.ID, tt.raw)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		counted[tt.reason]++
		if diff := cmp.Diff(counted, r.refused.Counts()); diff != "" {
			t.Errorf("%s: counted: want -, got +:\n%s", name, diff)
		}
		if r.allowed() {
			t.Fatalf("%s: it is in force", name)
		}
	}
	if err := r.take(r.node.ID, current); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if text := r.refused.Counts().String(); text != "1 earlier, 1 ended, 2 forged, 2 malformed, 1 other target, 1 too large" {
		t.Errorf("counted %s", text)
	}
	r.restart(t, r.store)
	if err := r.take(r.node.ID, older); err == nil || r.allowed() {
		t.Errorf("older after a restart: %v", err)
	}
	if err := r.take(r.node.ID, newer); err != nil || !r.allowed() {
		t.Errorf("newer: %v", err)
	}
	r.enrolled = nil
	if err := r.take(r.node.ID, r.writer.sign(t, r.device)); err == nil || !strings.Contains(err.Error(), "enrol with a ticket") {
		t.Errorf("without a pinned key: %v", err)
	}
}

// Rules end. Open flows are judged again then, and the nodes' keys count no more.
func TestRulesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRules(t)
		var changes atomic.Int64
		r.changed = func() { changes.Add(1) }
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() {
			if err := r.run(ctx); err != nil {
				t.Error(err)
			}
		})
		r.writer.until = time.Now().Add(time.Hour)
		r.writer.nodes = []slice.Node{{ID: r.node.ID, Site: "paris", Key: keyOf(r.node.Leaf())}}
		if err := r.take(r.node.ID, r.writer.sign(t, r.device, r.grant())); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour - time.Second)
		if !r.allowed() || !r.nodeServed(r.node.Leaf()) || changes.Load() != 1 {
			t.Errorf("before the end: allowed %v, node served %v, %d changes", r.allowed(), r.nodeServed(r.node.Leaf()), changes.Load())
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if r.allowed() || r.nodeServed(r.node.Leaf()) || changes.Load() != 2 {
			t.Errorf("after the end: allowed %v, node served %v, %d changes", r.allowed(), r.nodeServed(r.node.Leaf()), changes.Load())
		}
		r.restart(t, r.store)
		if r.allowed() {
			t.Error("allowed after a restart")
		}
	})
}

// An agent judges nodes by its rules.
func TestRulesJudgeNodes(t *testing.T) {
	r := newTestRules(t)
	leaf := r.node.Leaf()
	if r.nodeRevoked(leaf) || r.nodeServed(leaf) {
		t.Error("judged without rules")
	}
	for _, tt := range []struct {
		name            string
		nodes           []slice.Node
		gone            []slice.Revoked
		revoked, served bool
	}{
		{"active", []slice.Node{{ID: r.node.ID, Key: keyOf(leaf)}}, nil, false, true},
		{"another key", []slice.Node{{ID: r.node.ID, Key: [32]byte{1}}}, nil, false, false},
		{"revoked", nil, []slice.Revoked{{ID: r.node.ID, Generation: 3}}, true, false},
		{"revoked before it enrolled anew", []slice.Node{{ID: r.node.ID, Key: keyOf(leaf)}}, []slice.Revoked{{ID: r.node.ID, Generation: 2}}, false, true},
		{"not known yet", nil, nil, false, false},
	} {
		r.writer.nodes, r.writer.gone = tt.nodes, tt.gone
		if err := r.take(r.node.ID, r.writer.sign(t, r.device)); err != nil {
			t.Fatal(err)
		}
		if r.nodeRevoked(leaf) != tt.revoked || r.nodeServed(leaf) != tt.served {
			t.Errorf("%s: revoked %v, served %v", tt.name, r.nodeRevoked(leaf), r.nodeServed(leaf))
		}
	}
}
