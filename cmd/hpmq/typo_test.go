package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// TestTypoCostsNothing: a policy that denies by mistake what a client that is away
// has subscribed to, and is put right over a restart. What it must not have is
// dropped only if it comes for it meanwhile.
func TestTypoCostsNothing(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	dir, shift := filepath.Join(t.TempDir(), "a"), freeShift(t)
	t.Setenv("HPMQ_DATA_DIR", dir)
	stop := startNode(t, dir, shift)
	defer func() { stop() }()
	got := make(chan string, 10)
	receive := func(payload string) { got <- payload }
	away := func(c *paho.Client) {
		t.Helper()
		if err := c.Disconnect(&paho.Disconnect{}); err != nil {
			t.Fatal(err)
		}
	}
	come := func() *paho.Client { return client(t, shift, "away", false, receive) }
	publish := func(topic, payload string) {
		t.Helper()
		pub := client(t, shift, "pub", true, nil)
		if _, err := pub.Publish(t.Context(), &paho.Publish{Topic: topic, QoS: 1, Payload: []byte(payload)}); err != nil {
			t.Fatal(err)
		}
		away(pub)
	}
	wants := func(payload string) {
		t.Helper()
		select {
		case have := <-got:
			if have != payload {
				t.Fatalf("got %q, want %q", have, payload)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%q did not come", payload)
		}
	}
	policy := filepath.Join(dir, "policy", "typo.hcl")
	deny := func(filter string) {
		t.Helper()
		text := "deny \"typo\" {\n  to = [\"service:local\"]\n  topics { subscribe = [\"" + filter + "\"] }\n}\n"
		if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	c := come()
	if _, err := c.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "demo/#", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	away(c)
	publish("demo/hide", "hidden")
	publish("demo/open", "open")
	deny("demo/hide")
	awaitAnswer(t, "typo.hcl:1", "why", "service:local", "subscribe", "demo/hide")
	c = come()
	wants("open")
	awaitAnswer(t, "1 (denied 1)", "clients")
	away(c)

	publish("demo/open", "kept")
	deny("demo/#")
	awaitAnswer(t, "1 (asleep 1)", "clients")
	stop()
	if err := os.Remove(policy); err != nil {
		t.Fatal(err)
	}
	stop = startNode(t, dir, shift)
	publish("demo/open", "later")
	c = come()
	wants("kept")
	wants("later")
	away(c)
}

// awaitAnswer runs a command until it prints want.
func awaitAnswer(t *testing.T, want string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	for range 400 {
		out.Reset()
		execute(t.Context(), args, strings.NewReader(""), &out, &out)
		if strings.Contains(out.String(), want) {
			return
		}
		<-time.After(50 * time.Millisecond) // files of a policy are read when they were quiet
	}
	t.Fatalf("hpmq %s does not say %q: %s", strings.Join(args, " "), want, out.String())
}
