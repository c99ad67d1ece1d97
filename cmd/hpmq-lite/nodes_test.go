package main

import (
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

// An agent whose renewal finds no CA goes on with the key of a node that it knew.
func TestKnownNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testca.New(t, "lab.test")
		store := enrol(t, ca, t.TempDir(), ca.ID(t, identity.Device, "pump-7"), "127.0.0.1:1")
		log := logTo(newOutput())
		node := func(name string, life time.Duration) *identity.SVID {
			return ca.SVID(t, ca.ID(t, identity.Node, name), testca.ValidFor(life))
		}
		paris, brief, stranger := node("paris", 10*time.Minute), node("brief", -time.Second), node("paris", 10*time.Minute)
		n := openNodes(store, log)
		for _, svid := range []*identity.SVID{paris, brief} {
			if err := n.learn(svid.ID, svid.Leaf(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		n = openNodes(store, log) // after a restart
		expect := func(when string, served bool) {
			t.Helper()
			if got := n.serves(paris.Leaf()); got != served {
				t.Errorf("%s: served %v, want %v", when, got, served)
			}
			for _, other := range []*identity.SVID{brief, stranger} {
				if n.serves(other.Leaf()) {
					t.Errorf("%s: a key is served that was never seen while valid", when)
				}
			}
		}
		<-time.After(11 * time.Minute)
		expect("own renewal is not due", false)
		if at := n.judgeAt(paris.Leaf(), time.Now()); !at.Equal(time.Now()) {
			t.Errorf("judged at %v", at)
		}
		<-time.After(20 * time.Minute) // the certificate of an hour is due after 18 to 22 minutes
		expect("own renewal is late", true)
		if at := n.judgeAt(paris.Leaf(), time.Now()); !at.Equal(paris.NotAfter()) {
			t.Errorf("judged at %v", at)
		}
		<-time.After(offlineMax)
		expect("beyond the limit", false)

		fresh := ca.SVID(t, store.SVID().ID, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now(), time.Now().Add(time.Hour) })
		if err := store.Save(fresh, ca.Bundle()); err != nil {
			t.Fatal(err)
		}
		<-time.After(30 * time.Minute)
		expect("a CA was reached since", false)
	})
}
