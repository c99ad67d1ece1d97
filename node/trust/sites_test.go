package trust

import (
	"sync"
	"testing"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/policy"
)

func TestReceivers(t *testing.T) {
	live := policy.NewLive(policy.LiveOptions{TrustDomain: "lab.test"})
	s := NewReceivers(live.Set)
	apply := func(text string) {
		t.Helper()
		if found, err := live.Apply(map[string][]byte{"main.hcl": []byte(text)}); err != nil {
			t.Fatal(found)
		}
	}
	command, state := &store.Message{Topic: "site/home/pump-7/cmd/open"}, &store.Message{Topic: "site/home/pump-7/raw"}
	check := func(when, site string, wantCommand, wantState bool) {
		t.Helper()
		if c, r := s.Receives(site, command), s.Receives(site, state); c != wantCommand || r != wantState {
			t.Errorf("%s: %s receives commands %v and states %v, want %v and %v", when, site, c, r, wantCommand, wantState)
		}
	}
	check("no policy", "lyon", false, false)
	apply(string(policy.Default()))
	check("first policy", "lyon", false, true)
	check("first policy", "home", true, true)
	first := s.rightsOf("lyon")
	if s.rightsOf("lyon") != first {
		t.Error("compiled again under the same policy")
	}
	apply("version = 1")
	check("version 1", "lyon", true, true)
	if len(s.rights.Load().site) != 1 {
		t.Error("rights of an older policy are kept")
	}
	apply("version = 2")
	check("version 2, no grant", "lyon", false, false)
}

// TestReceiversAtOnce asks while the policy changes.
func TestReceiversAtOnce(t *testing.T) {
	live := policy.NewLive(policy.LiveOptions{TrustDomain: "lab.test"})
	s := NewReceivers(live.Set)
	var askers sync.WaitGroup
	for _, site := range []string{"lyon", "paris", "home"} {
		askers.Go(func() {
			for range 1000 {
				s.Receives(site, &store.Message{Topic: "demo/x"})
			}
		})
	}
	for _, text := range []string{"version = 1", string(policy.Default()), "version = 2"} {
		if found, err := live.Apply(map[string][]byte{"main.hcl": []byte(text)}); err != nil {
			t.Error(found)
		}
	}
	askers.Wait()
	if s.Receives("lyon", &store.Message{Topic: "demo/x"}) {
		t.Error("an older policy answers")
	}
}

func TestReceiversDoesNotAllocate(t *testing.T) {
	live := policy.NewLive(policy.LiveOptions{TrustDomain: "lab.test"})
	if found, err := live.Apply(map[string][]byte{"main.hcl": policy.Default()}); err != nil {
		t.Fatal(found)
	}
	s, m := NewReceivers(live.Set), &store.Message{Topic: "site/lyon/pump-7/cmd/open"}
	if n := testing.AllocsPerRun(100, func() {
		if !s.Receives("lyon", m) {
			t.Error("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
