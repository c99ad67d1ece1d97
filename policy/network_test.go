package policy

import (
	"crypto/ed25519"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/policy/slice"
)

const access = `
group "pumps" { labels = { role = "pump" } }
group "vendor" { members = ["user:*@vendor.example"] }
grant "vendor" {
  to     = ["group:vendor"]
  except = ["user:old@vendor.example"]
  network {
    dst   = ["group:pumps"]
    allow = ["tcp/8080", "udp/160-162"]
  }
}
grant "admin" {
  to = ["user:admin"]
  network {
    dst   = ["device:*"]
    allow = ["tcp/*", "udp/*"]
  }
  network {
    dst   = ["node:hub"]
    allow = ["tcp/22"]
  }
}
grant "hardware" {
  to   = ["user:admin"]
  when = id.labels.mfa == "hw"
  network {
    dst   = ["service:vault"]
    allow = ["tcp/443"]
  }
}
deny "frozen" {
  to     = ["*"]
  reason = "under repair"
  network {
    dst   = ["device:pump-9"]
    ports = ["tcp/1-1024"]
  }
}
grant "at home" {
  to   = ["user:carol"]
  when = session.site == id.site
  network {
    dst   = ["node:hub"]
    allow = ["tcp/22"]
  }
}
`

func TestConnect(t *testing.T) {
	s := load(t, access)
	vendor, admin := subject(t, "user:tech@vendor.example"), subject(t, "user:admin")
	pump, nine := subject(t, "device:pump-7", "role", "pump"), subject(t, "device:pump-9", "role", "pump")
	foreign := subject(t, "user:admin")
	foreign.ID.TrustDomain = "other.test"
	for _, tt := range []struct {
		name     string
		from, to Subject
		network  string
		port     uint16
		want     bool
		reason   string
	}{
		{"granted", vendor, pump, "tcp", 8080, true, `granted by grant "vendor" main.hcl:4`},
		{"in a range", vendor, pump, "udp", 161, true, `granted by grant "vendor" main.hcl:4`},
		{"other port", vendor, pump, "tcp", 22, false, `no grant to connect user:tech@vendor.example to device:pump-7 tcp/22; nearest: grant "vendor" main.hcl:4 reaches group:pumps tcp/8080, udp/160-162`},
		{"other protocol", vendor, pump, "udp", 8080, false, ""},
		{"not in the group", vendor, subject(t, "device:lamp"), "tcp", 8080, false, ""},
		{"excepted", subject(t, "user:old@vendor.example"), pump, "tcp", 8080, false, `no grant to connect user:old@vendor.example to device:pump-7 tcp/8080; no network grant for the caller's groups: vendor`},
		{"all ports", admin, pump, "udp", 65535, true, ""},
		{"second block", admin, subject(t, "node:hub"), "tcp", 22, true, ""},
		{"denied", admin, nine, "tcp", 22, false, `deny "frozen" main.hcl:31: under repair`},
		{"beside the deny", admin, nine, "tcp", 2000, true, ""},
		{"condition undecided", admin, subject(t, "service:vault"), "tcp", 443, false, ""},
		{"condition holds", subject(t, "user:admin", "mfa", "hw"), subject(t, "service:vault"), "tcp", 443, true, ""},
		{"session's site", subject(t, "user:carol"), subject(t, "node:hub"), "tcp", 22, false, "no grant to connect user:carol to node:hub tcp/22; grant \"at home\" main.hcl:39 is not given: `when` depends on session.site, which has no value"},
		{"nobody", Subject{}, pump, "tcp", 22, false, ""},
		{"foreign", foreign, pump, "tcp", 22, false, ""},
		{"no grant", subject(t, "user:bob"), pump, "tcp", 22, false, `no grant to connect user:bob to device:pump-7 tcp/22; no network grant names the caller, who is in no group`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := s.Connect(tt.from, tt.to, tt.network, tt.port)
			if d.Allowed != tt.want || tt.reason != "" && d.Reason() != tt.reason {
				t.Errorf("got %v %s\nwant %v %s", d.Allowed, d.Reason(), tt.want, tt.reason)
			}
			if !d.Allowed && len(d.Reason()) > maxReason {
				t.Errorf("reason of %d bytes", len(d.Reason()))
			}
		})
	}
}

// sliceOf returns the rules of target as its agent reads them.
func sliceOf(t *testing.T, x *Inbound, target Subject) *slice.Slice {
	t.Helper()
	root, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := directory.Open(filepath.Join(t.TempDir(), "log"), root, directory.Options{Signer: key})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	rules, err := x.Part(target)
	if err != nil {
		t.Fatal(err)
	}
	fabric, err := slice.EncodeFabric(target.ID.TrustDomain, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := slice.Sign(d, target.ID, time.Now(), rules, fabric)
	if err != nil {
		t.Fatal(err)
	}
	s, err := slice.Open(raw, root, target.ID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An agent relies on the same answers from Inbound and Connect.
func TestInboundSaysWhatConnectSays(t *testing.T) {
	s := load(t, access)
	everybody := []Subject{
		subject(t, "user:tech@vendor.example"), subject(t, "user:old@vendor.example"), subject(t, "user:admin"),
		subject(t, "user:bob"), subject(t, "device:pump-7", "role", "pump"), subject(t, "device:pump-9", "role", "pump"),
		subject(t, "node:hub"), subject(t, "user:carol"),
	}
	inbound := s.Inbound(slices.Values(append(everybody, Subject{})))
	for _, target := range everybody {
		sl := sliceOf(t, inbound, target)
		rapid.Check(t, func(t *rapid.T) {
			caller := rapid.SampledFrom(everybody).Draw(t, "caller")
			network := rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "network")
			port := rapid.SampledFrom([]uint16{1, 22, 160, 161, 1024, 1025, 8080, 65535}).Draw(t, "port")
			d := s.Connect(caller, target, network, port)
			rule, ok := sl.Allow(caller.ID, network, port)
			if ok != d.Allowed || ok && rule != d.Rule {
				t.Fatalf("%s to %s %s/%d: slice says %v %q, set %v %q", caller.ID.Short(), target.ID.Short(), network, port, ok, rule, d.Allowed, d.Rule)
			}
		})
	}
	got := sliceOf(t, inbound, everybody[5]).Rules
	want := []slice.Rule{
		{Cite: `grant "vendor" main.hcl:4`, Callers: ids(everybody[0]), Ports: []slice.PortRange{{Network: "tcp", First: 8080, Last: 8080}, {Network: "udp", First: 160, Last: 162}}},
		{Cite: `grant "admin" main.hcl:12`, Callers: ids(everybody[2]), Ports: []slice.PortRange{{Network: "tcp", First: 1, Last: 65535}, {Network: "udp", First: 1, Last: 65535}}},
		{Cite: `deny "frozen" main.hcl:31`, Deny: true, Callers: ids(everybody[2], everybody[0]), Ports: []slice.PortRange{{Network: "tcp", First: 1, Last: 1024}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if part, err := inbound.Part(Subject{}); err != nil || part.Sum != mustPart(t, s.Inbound(slices.Values(everybody)), everybody[3]).Sum {
		t.Errorf("nobody's rules are not those of an identity that no block names: %v", err)
	}
}

func mustPart(t interface{ Fatal(args ...any) }, x *Inbound, target Subject) slice.Part {
	p, err := x.Part(target)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// An inbound that follows single changes gives the answers of one that is made anew,
// and tells when nothing has changed.
func TestInboundFollowsChanges(t *testing.T) {
	s := load(t, access)
	names := []string{"user:tech@vendor.example", "user:old@vendor.example", "user:admin", "user:carol", "device:pump-7", "device:pump-9", "device:lamp", "node:hub", "service:vault"}
	rapid.Check(t, func(rt *rapid.T) {
		known := map[string]Subject{}
		x := s.Inbound(slices.Values([]Subject{}))
		for range rapid.IntRange(1, 30).Draw(rt, "changes") {
			name := rapid.SampledFrom(names).Draw(rt, "name")
			labels := rapid.SampledFrom([][]string{nil, {"role", "pump"}, {"mfa", "hw"}}).Draw(rt, "labels")
			sub := subject(t, name, labels...)
			active := rapid.Bool().Draw(rt, "active")
			if active {
				known[name] = sub
			} else {
				delete(known, name)
			}
			before := map[string][32]byte{}
			for _, n := range names {
				before[n] = mustPart(rt, x, subjectOr(t, known, n)).Sum
			}
			changed := x.Update(sub, active)
			fresh := s.Inbound(maps.Values(known))
			for _, n := range names {
				target := subjectOr(t, known, n)
				got, want := mustPart(rt, x, target), mustPart(rt, fresh, target)
				if got.Sum != want.Sum {
					rt.Fatalf("after %s %v %v: other rules for %s", name, labels, active, n)
				}
				if !changed && got.Sum != before[n] {
					rt.Fatalf("after %s %v %v: the rules of %s changed unsaid", name, labels, active, n)
				}
			}
		}
	})
}

func subjectOr(t *testing.T, known map[string]Subject, name string) Subject {
	if sub, ok := known[name]; ok {
		return sub
	}
	return subject(t, name)
}

func ids(subs ...Subject) []identity.ID {
	var out []identity.ID
	for _, s := range subs {
		out = append(out, s.ID)
	}
	return out
}
