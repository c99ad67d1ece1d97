package main

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy/slice"
)

// TestVersionsAreNotForEver: a node that gives a version which nothing follows
// keeps no other node, nor itself, from being believed.
func TestVersionsAreNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testca.New(t, "lab.test")
		device := ca.ID(t, identity.Device, "pump-7")
		store := enrol(t, ca, t.TempDir(), device, "127.0.0.1:1")
		newRules := func() *rules {
			return &rules{
				store: store, agent: access.NewAgent(access.AgentOptions{Source: store}), changed: func() {}, log: logTo(newOutput()),
				judgeAt: func(identity.ID) time.Time { return time.Now() },
			}
		}
		paris, lyon := ca.SVID(t, ca.ID(t, identity.Node, "paris")), ca.SVID(t, ca.ID(t, identity.Node, "lyon"))
		r := newRules()
		take := func(by *identity.SVID, version uint64) error {
			t.Helper()
			raw, err := (&slice.Slice{Target: device, Version: version, Issued: time.Now()}).Sign(by)
			if err != nil {
				t.Fatal(err)
			}
			return r.take(by.ID, raw)
		}
		for _, honest := range []*identity.SVID{lyon, paris} {
			if err := take(paris, math.MaxUint64); err != nil {
				t.Fatal(err)
			}
			<-time.After(slice.Overtake - time.Second)
			if take(honest, 7) == nil {
				t.Errorf("%s: an older version was taken at once", honest.ID.Short())
			}
			<-time.After(2 * time.Second)
			if err := take(honest, 7); err != nil {
				t.Errorf("%s is refused for good: %v", honest.ID.Short(), err)
			}
			if err := take(honest, 8); err != nil {
				t.Error(err)
			}
		}

		r = newRules()
		r.load()
		if take(lyon, 7) == nil {
			t.Error("an older version was taken at once after a restart")
		}
		<-time.After(slice.Overtake)
		if err := take(lyon, 7); err != nil {
			t.Errorf("refused for good after a restart: %v", err)
		}
	})
}
