package policy

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
)

// subject makes a subject of trust domain lab.test, at home at site home.
func subject(t testing.TB, short string, labels ...string) Subject {
	t.Helper()
	id, err := identity.ParseShort("lab.test", short)
	if err != nil {
		t.Fatal(err)
	}
	sub := Subject{ID: id, Site: "home", SessionSite: "home", Labels: map[string]string{}}
	for i := 0; i+1 < len(labels); i += 2 {
		sub.Labels[labels[i]] = labels[i+1]
	}
	return sub
}

func load(t testing.TB, src string) *Set {
	t.Helper()
	s, found := Load(map[string][]byte{"main.hcl": []byte(src)}, "lab.test")
	if s == nil {
		t.Fatal(found)
	}
	return s
}

const plant = `
group "plc" { members = ["device:plc-*"] }
group "hot" { labels = { zone = "hot" } }
group "hot-plc" {
  members = ["device:plc-*"]
  labels  = { zone = "hot" }
}
grant "plc" {
  to = ["group:plc"]
  topics {
    publish   = ["site/${id.site}/plc/${id.name}/#"]
    will      = ["site/${id.site}/plc/${id.name}/status"]
    retain    = ["site/${id.site}/plc/${id.name}/status"]
    subscribe = ["cmd/${id.name}/#", "$share/${id.site}-ota/ota/${id.labels.model}/#"]
    max_qos   = 1
    max_size  = "1KiB"
  }
}
grant "big" {
  to = ["device:plc-1"]
  topics { publish = ["site/+/plc/${id.name}/dump"] }
}
grant "hot" {
  to = ["group:hot-plc"]
  topics { publish = ["hot/#"] }
}
grant "reader" {
  to = ["user:*"]
  topics { subscribe = ["#"] }
}
grant "roaming" {
  to   = ["device:plc-*"]
  when = session.site != id.site && id.labels.mfa == "hw"
  topics { publish = ["roaming/${session.site}"] }
}
deny "estop" {
  to     = ["*"]
  except = ["device:plc-9"]
  reason = "only plc-9 stops the line"
  topics { publish = ["site/+/plc/+/estop"] }
}
deny "secret" {
  to     = ["user:*"]
  except = ["user:boss"]
  topics { subscribe = ["site/+/secret/#", "$share/bad/#"] }
}
deny "own-tenant" {
  to = ["user:*"]
  topics { subscribe = ["tenant/${id.labels.tenant}x/private"] }
}
deny "suspect" {
  to   = ["user:*"]
  when = id.labels.trusted != "yes"
  topics { subscribe = ["vault/#"] }
}
`

func TestSession(t *testing.T) {
	s := load(t, plant)
	plc := s.Session(subject(t, "device:plc-1", "model", "s7"))
	hot := s.Session(subject(t, "device:plc-2", "zone", "hot"))
	nine := s.Session(subject(t, "device:plc-9"))
	ann := s.Session(subject(t, "user:ann"))
	boss := s.Session(subject(t, "user:boss", "tenant", "a", "trusted", "yes"))
	evil := s.Session(subject(t, "device:plc-3", "model", "+"))
	homeless := subject(t, "device:plc-1")
	homeless.Site = ""
	away := subject(t, "device:plc-1", "mfa", "hw")
	away.SessionSite = "lyon"
	foreign := subject(t, "device:plc-1")
	foreign.ID.TrustDomain = "other.test"
	deny := func(d Decision) Decision { d.Allowed = !d.Allowed; return d }

	for name, d := range map[string]Decision{
		"publish own":                     plc.Publish("site/home/plc/plc-1/temp", 1, false, 10),
		"parent level of #":               plc.Publish("site/home/plc/plc-1", 0, false, 0),
		"another's branch":                deny(plc.Publish("site/home/plc/plc-2/temp", 0, false, 0)),
		"QoS above the bound":             deny(plc.Publish("site/home/plc/plc-1/temp", 2, false, 0)),
		"size above the bound":            deny(plc.Publish("site/home/plc/plc-1/temp", 0, false, 1025)),
		"a second grant without bounds":   plc.Publish("site/home/plc/plc-1/dump", 2, false, 1<<20),
		"retain granted":                  plc.Publish("site/home/plc/plc-1/status", 1, true, 1),
		"retain not granted":              deny(plc.Publish("site/home/plc/plc-1/temp", 1, true, 1)),
		"will granted":                    plc.Will("site/home/plc/plc-1/status", 1, false, 1),
		"retained will":                   plc.Will("site/home/plc/plc-1/status", 1, true, 1),
		"will not granted":                deny(plc.Will("site/home/plc/plc-1/temp", 1, false, 1)),
		"deny of publish":                 deny(plc.Publish("site/home/plc/plc-1/estop", 0, false, 0)),
		"except":                          nine.Publish("site/home/plc/plc-9/estop", 0, false, 0),
		"members and labels":              hot.Publish("hot/x", 0, false, 0),
		"members without labels":          deny(plc.Publish("hot/x", 0, false, 0)),
		"subscribe the filter":            plc.Subscribe("cmd/plc-1/#"),
		"subscribe narrower":              plc.Subscribe("cmd/plc-1/+/x"),
		"subscribe wider":                 deny(plc.Subscribe("cmd/+/#")),
		"subscribe everything":            deny(plc.Subscribe("#")),
		"shared of a plain grant":         plc.Subscribe("$share/any/cmd/plc-1/x"),
		"shared as granted":               plc.Subscribe("$share/home-ota/ota/s7/1"),
		"shared grant, other group":       deny(plc.Subscribe("$share/other/ota/s7/1")),
		"shared grant, not shared":        deny(plc.Subscribe("ota/s7/1")),
		"shared is delivered":             plc.Receive("ota/s7/1"),
		"receive own":                     plc.Receive("cmd/plc-1/go"),
		"receive other":                   deny(plc.Receive("cmd/plc-2/go")),
		"malformed share":                 deny(plc.Subscribe("$share/x")),
		"wildcard as a share name":        deny(plc.Subscribe("$share/+/cmd/plc-1/x")), // [MQTT-4.8.2-2]
		"wildcards of a share too late":   deny(plc.Subscribe("$share/any/cmd/plc-1/#/x")),
		"wildcard and $":                  deny(ann.Subscribe("$SYS/broker")),
		"wildcard and $, delivery":        deny(ann.Receive("$SYS/broker")),
		"deny overlaps":                   ann.Subscribe("site/#"),
		"deny covers":                     deny(ann.Subscribe("site/home/secret/+")),
		"denied delivery":                 deny(ann.Receive("site/home/secret/x")),
		"granted delivery":                ann.Receive("site/home/open"),
		"denied shared group":             deny(ann.Subscribe("$share/bad/site/x")),
		"shared, other group":             ann.Subscribe("$share/good/site/open"),
		"except of the deny":              boss.Subscribe("site/home/secret/+"),
		"deny with a missing value":       deny(ann.Subscribe("tenant/b/private")),
		"deny with the value, other":      boss.Subscribe("tenant/b/private"),
		"deny with the value":             deny(boss.Subscribe("tenant/ax/private")),
		"undecided condition denies":      deny(ann.Subscribe("vault/x")),
		"decided condition":               boss.Subscribe("vault/x"),
		"a label cannot be a wildcard":    deny(evil.Subscribe("$share/home-ota/ota/x/#")),
		"nor granted literally":           deny(evil.Receive("ota/+/x")),
		"no site, no grant":               deny(s.Session(homeless).Publish("site//plc/plc-1/x", 0, false, 0)),
		"no site, other grants stay":      s.Session(homeless).Subscribe("cmd/plc-1/x"),
		"condition holds":                 s.Session(away).Publish("roaming/lyon", 0, false, 0),
		"undecided condition is no grant": deny(plc.Publish("roaming/home", 0, false, 0)),
		"another trust domain":            deny(s.Session(foreign).Subscribe("cmd/plc-1/x")),
		"nobody":                          deny(s.Session(Subject{}).Publish("site/x", 0, false, 0)),
		"zero topic":                      deny(plc.Publish("", 0, false, 0)),
	} {
		if !d.Allowed {
			t.Errorf("%s: decided the wrong way (%q)", name, d.Rule)
		}
	}
	if !ann.Subscribe("site/#").Filtered || ann.Subscribe("open/x").Filtered || boss.Subscribe("site/#").Filtered {
		t.Error("Filtered is set exactly on what a deny overlaps")
	}
}

func TestReasons(t *testing.T) {
	s := load(t, plant)
	plc := s.Session(subject(t, "device:plc-1"))
	homeless := subject(t, "device:plc-1")
	homeless.Site = ""
	for _, tt := range []struct {
		name string
		d    Decision
		want string
	}{
		{"granted", plc.Publish("site/home/plc/plc-1/x", 0, false, 0), `granted by grant "plc" main.hcl:8`},
		{"nearest", plc.Publish("site/home/plc/plc-2/x", 0, false, 0), `no grant for publish site/home/plc/plc-2/x; nearest: grant "plc" main.hcl:8 publishes site/home/plc/plc-1/#`},
		{"QoS", plc.Publish("site/home/plc/plc-1/x", 2, false, 0), `publish site/home/plc/plc-1/x with QoS 2 is above max_qos 1 of grant "plc" main.hcl:8`},
		{"size", plc.Publish("site/home/plc/plc-1/x", 0, false, 2000), `publish site/home/plc/plc-1/x with 2000 bytes is above max_size 1024 of grant "plc" main.hcl:8`},
		{"retain", plc.Publish("site/home/plc/plc-1/x", 0, true, 0), `no grant for retain site/home/plc/plc-1/x; nearest: grant "plc" main.hcl:8 retains on site/home/plc/plc-1/status`},
		{"deny", plc.Publish("site/home/plc/plc-1/estop", 0, false, 0), `deny "estop" main.hcl:36: only plc-9 stops the line`},
		{"value missing", plc.Subscribe("$share/home-ota/ota/s7/#"), `no grant for subscribe $share/home-ota/ota/s7/#; grant "plc" main.hcl:8 is not given: id.labels.model has no value`},
		{"site missing", s.Session(homeless).Publish("site/home/plc/plc-1/x", 0, false, 0), `no grant for publish site/home/plc/plc-1/x; nearest: grant "big" main.hcl:19 publishes site/+/plc/plc-1/dump`},
		{"no group", s.Session(subject(t, "device:lamp")).Publish("a", 0, false, 0), `no grant for publish a; device:lamp is in no group and no grant names it`},
		{"other kind of right", s.Session(subject(t, "user:ann")).Publish("a", 0, false, 0), `no grant for publish a; no grant of that kind names user:ann`},
		{"nobody", s.Session(Subject{}).Publish("a", 0, false, 0), `no grant for publish a; no identity`},
		{"control characters", plc.Publish("a\x1b[31m\nb", 0, false, 0), `no grant for publish a?[31m?b; nearest: grant "plc" main.hcl:8 publishes site/home/plc/plc-1/#`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.d.Reason(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	if got, want := plc.Publish("site/home/plc/plc-2/x", 0, false, 0).Nearest(), `grant "plc" main.hcl:8`; got != want {
		t.Errorf("Nearest = %q, want %q", got, want)
	}
	long := plc.Publish("site/"+strings.Repeat("ü/", 20000), 0, false, 0).Reason()
	if len(long) > maxReason || !utf8.ValidString(long) {
		t.Errorf("reason of %d bytes: %q", len(long), long)
	}
}

func TestNotGiven(t *testing.T) {
	got := load(t, plant).Session(subject(t, "device:plc-1", "mfa", "hw", "model", "a/#")).NotGiven()
	want := []string{
		`grant "plc" main.hcl:8 subscribes $share/${id.site}-ota/ota/${id.labels.model}/#: id.labels.model holds a character that is not allowed in a topic level`,
		"grant \"roaming\" main.hcl:31 publishes roaming/home: `when` does not hold",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestFunctionRights(t *testing.T) {
	s := load(t, `
grant "f" {
  to = ["function:norm"]
  function {
    publish      = ["norm/#"]
    capabilities = ["prev", "kv:read", "kv:write"]
    memory       = "16MiB"
    timeout      = "5ms"
    on_error     = "drop"
  }
}
grant "g" {
  to = ["*"]
  function {
    publish      = ["all/${id.name}"]
    capabilities = ["prev", "clock"]
    timeout      = "7ms"
  }
}
deny "no-writes" {
  to = ["function:*"]
  function {
    publish      = ["norm/secret"]
    capabilities = ["kv:write"]
  }
}
binding "norm" {
  function = "norm"
  on       = "upstream"
  topics   = ["raw/+"]
  to       = ["device:*"]
}
`)
	x := s.Session(subject(t, "function:norm"))
	f := x.Function()
	if got, want := strings.Join(f.Capabilities, " "), "clock kv:read prev"; got != want {
		t.Errorf("capabilities %q, want %q", got, want)
	}
	if f.Memory != 16<<20 || f.Timeout.String() != "7ms" || len(f.Rules) != 2 {
		t.Errorf("got %+v", f)
	}
	if !x.Publish("norm/a", 2, true, 1<<20).Allowed || !x.Publish("all/norm", 0, false, 0).Allowed || x.Publish("norm/secret", 0, false, 0).Allowed {
		t.Error("the function's topics are decided wrongly")
	}
	device := s.Session(subject(t, "device:norm"))
	if device.Publish("all/norm", 0, false, 0).Allowed || device.Function().Capabilities != nil {
		t.Error("a function block gave a device rights")
	}
	if got := s.AllBindings()[0].OnError; got != "drop" {
		t.Errorf("on_error %q, want the grant's", got)
	}
}

func TestDecisionsDoNotAllocate(t *testing.T) {
	s := load(t, plant)
	plc, ann := s.Session(subject(t, "device:plc-1")), s.Session(subject(t, "user:ann"))
	binding := load(t, `binding "b" {
  function = "f"
  on       = "upstream"
  topics   = ["site/+/raw/#"]
  to       = ["*"]
}`).AllBindings()[0]
	for name, f := range map[string]func() bool{
		"publish":        func() bool { return plc.Publish("site/home/plc/plc-1/status", 1, true, 10).Allowed },
		"publish denied": func() bool { return !plc.Publish("site/home/plc/plc-1/estop", 1, true, 10).Allowed },
		"no grant":       func() bool { return !plc.Publish("site/home/valve/set", 1, false, 10).Allowed },
		"will":           func() bool { return plc.Will("site/home/plc/plc-1/status", 1, true, 10).Allowed },
		"receive":        func() bool { return ann.Receive("site/home/plc/plc-1/status").Allowed },
		"subscribe":      func() bool { return ann.Subscribe("site/+/plc/#").Allowed },
		"binding":        func() bool { return binding.Match("site/home/raw/x") },
	} {
		if !f() {
			t.Errorf("%s: wrong decision", name)
		}
		if n := testing.AllocsPerRun(100, func() { f() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestSessionIs(t *testing.T) {
	set, other := new(Set), new(Set)
	sub := Subject{ID: identity.ID{TrustDomain: "lab.test", Kind: identity.Device, Name: "pump"}, Labels: map[string]string{"role": "sensor"}, Site: "a", SessionSite: "a"}
	x := set.Session(sub)
	moved, relabelled, renamed := sub, sub, sub
	moved.Site = "b"
	relabelled.Labels = map[string]string{"role": "valve"}
	renamed.ID.Name = "pump-2"
	same := sub
	same.Labels = map[string]string{"role": "sensor"}
	for _, tt := range []struct {
		name string
		set  *Set
		sub  Subject
		want bool
	}{
		{"the same", set, same, true},
		{"another policy", other, sub, false},
		{"another site", set, moved, false},
		{"other labels", set, relabelled, false},
		{"another identity", set, renamed, false},
	} {
		if got := x.Is(tt.set, tt.sub); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}
