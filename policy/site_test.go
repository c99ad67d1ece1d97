package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// siteRule is a rule about sites for the naive evaluation.
type siteRule struct {
	deny    bool
	to      []string
	except  []string
	receive []string
	leaves  []string // except of the topics block, of a grant
}

func (m siteRule) source(i int) string {
	list := func(name string, of []string) string {
		if len(of) == 0 {
			return ""
		}
		quoted := make([]string, len(of))
		for i, s := range of {
			quoted[i] = fmt.Sprintf("%q", s)
		}
		return fmt.Sprintf("%s = [%s]\n", name, strings.ReplaceAll(strings.Join(quoted, ", "), "SITE", "${id.site}"))
	}
	word := "grant"
	if m.deny {
		word = "deny"
	}
	return fmt.Sprintf("%s \"r%d\" {\n%s%stopics {\n%s%s}\n}\n", word, i,
		list("to", m.to), list("except", m.except), list("receive", m.receive), list("except", m.leaves))
}

func (m siteRule) selects(site string) bool {
	in := func(list []string) bool {
		return slices.ContainsFunc(list, func(s string) bool {
			return s == "*" || s == "site:*" || s == "site:"+site || s == "group:g" && site == "a"
		})
	}
	return in(m.to) && !in(m.except)
}

func anyMatches(filters []string, site, topic string) bool {
	return slices.ContainsFunc(filters, func(f string) bool { return specMatch(strings.ReplaceAll(f, "SITE", site), topic) })
}

// siteMay is the rights of a site read off the rules one by one.
func siteMay(rules []siteRule, site, topic string) bool {
	granted := false
	for _, m := range rules {
		if !m.selects(site) || !anyMatches(m.receive, site, topic) {
			continue
		}
		if m.deny {
			return false
		}
		granted = granted || !anyMatches(m.leaves, site, topic)
	}
	return granted
}

// TestSiteRightsAgainstScan compares compiled rights of sites with a linear reading
// of the rules.
func TestSiteRightsAgainstScan(t *testing.T) {
	topics := words([]string{"a", "z", "b", "c"}, 4)
	level := rapid.SampledFrom([]string{"a", "z", "+", "SITE"})
	filter := rapid.Custom(func(t *rapid.T) string {
		f := strings.Join(rapid.SliceOfN(level, 1, 3).Draw(t, "levels"), "/")
		return rapid.SampledFrom([]string{f, f + "/#", "#"}).Draw(t, "end")
	})
	who := rapid.SliceOfN(rapid.SampledFrom([]string{"*", "site:a", "site:z", "site:*", "device:*", "group:g"}), 1, 2)
	rule := rapid.Custom(func(t *rapid.T) siteRule {
		m := siteRule{deny: rapid.IntRange(0, 3).Draw(t, "deny") == 0, to: who.Draw(t, "to")}
		if rapid.Bool().Draw(t, "excepting") {
			m.except = who.Draw(t, "except")
		}
		m.receive = rapid.SliceOfN(filter, 1, 2).Draw(t, "receive")
		if !m.deny {
			m.leaves = rapid.SliceOfN(filter, 0, 2).Draw(t, "leaves")
		}
		return m
	})
	rapid.Check(t, func(rt *rapid.T) {
		rules := rapid.SliceOfN(rule, 0, 5).Draw(rt, "rules")
		src := "version = 2\ngroup \"g\" { members = [\"site:a\", \"device:a\"] }\n"
		for i, m := range rules {
			src += m.source(i)
		}
		site := rapid.SampledFrom([]string{"a", "z", "c"}).Draw(rt, "site")
		rights := load(t, src).SiteReceives(site)
		asks := strings.ReplaceAll(filter.Draw(rt, "asks"), "SITE", "b")
		all, some := true, false
		for _, topic := range topics {
			may := siteMay(rules, site, topic)
			if got := rights.Receive(topic).Allowed; got != may {
				rt.Fatalf("site %s receives %q: %v\n%s", site, topic, got, src)
			}
			if specMatch(asks, topic) {
				all, some = all && may, some || may
			}
		}
		if rights.Covers(asks) && !all {
			rt.Fatalf("site %s does not receive all of %q\n%s", site, asks, src)
		}
		if some && !rights.Overlaps(asks) {
			rt.Fatalf("site %s receives some of %q\n%s", site, asks, src)
		}
	})
}

// TestFirstPolicyOfSites: the first policy gives a site everything but other sites'
// commands.
func TestFirstPolicyOfSites(t *testing.T) {
	s, found := Check(map[string][]byte{"main.hcl": Default()}, "lab.test")
	if s == nil {
		t.Fatal(found)
	}
	lyon := s.SiteReceives("lyon")
	for topic, want := range map[string]bool{
		"site/home/pump-7/raw":        true,
		"site/home/pump-7/cmd":        false,
		"site/home/pump-7/cmd/unlock": false,
		"site/lyon/pump-7/cmd/unlock": true,
		"demo/hi":                     true,
		"$SYS/broker/uptime":          false,
	} {
		if got := lyon.Receive(topic); got.Allowed != want {
			t.Errorf("%s: %v (%s)", topic, got.Allowed, got.Reason())
		}
	}
	for filter, want := range map[string][2]bool{ // covered, overlapping
		"#":                      {false, true},
		"site/#":                 {false, true},
		"site/lyon/#":            {true, true},
		"site/home/+/telemetry":  {true, true},
		"site/home/pump-7/cmd/#": {false, false},
		"site/+/pump-7/cmd/x":    {false, true}, // of lyon's own
		"$SYS/#":                 {false, false},
	} {
		if got := [2]bool{lyon.Covers(filter), lyon.Overlaps(filter)}; got != want {
			t.Errorf("%s: covered and overlapping %v, want %v", filter, got, want)
		}
	}
	for _, name := range []string{"", "+", "#", "a/b", "$x"} {
		if d := s.SiteReceives(name).Receive("demo/hi"); d.Allowed || d.Reason() == "" {
			t.Errorf("site %q has rights", name)
		}
	}
}

// TestVersionOne: without version = 2, sites receive everything as before, and the
// check warns.
func TestVersionOne(t *testing.T) {
	for _, src := range []string{onlyA, "version = 1\n" + onlyA} {
		s, found := Check(map[string][]byte{"main.hcl": []byte(src)}, "lab.test")
		if s == nil {
			t.Fatal(found)
		}
		lyon := s.SiteReceives("lyon")
		if s.Version() != 1 || !lyon.Receive("site/home/pump-7/cmd/x").Allowed || !lyon.Covers("#") || !lyon.Overlaps("a") {
			t.Error("a policy of version 1 bounds a site")
		}
		if len(found) != 1 || !strings.Contains(found[0].Summary, "version = 2") {
			t.Errorf("found %v", found)
		}
	}
	none := NewLive(LiveOptions{TrustDomain: "lab.test"}).Set()
	if none.SiteReceives("lyon").Receive("a").Allowed {
		t.Error("a node without a policy sends")
	}
}

// TestMissingExceptionTakesAny: an exception that has no value for a site leaves out
// more, not less.
func TestMissingExceptionTakesAny(t *testing.T) {
	s := load(t, `version = 2
grant "s" {
  to = ["site:*"]
  topics {
    receive = ["#"]
    except  = ["a/${id.labels.x}"]
  }
}`)
	if r := s.SiteReceives("lyon"); r.Receive("a/b").Allowed || !r.Receive("b").Allowed {
		t.Error("the exception is lost")
	}
}

func TestOnUnknownSite(t *testing.T) {
	for src, want := range map[string]string{
		"":                                     "queue",
		"sites {\n}":                           "queue",
		"sites {\n on_unknown = \"queue\"\n}":  "queue",
		"sites {\n on_unknown = \"refuse\"\n}": "refuse",
	} {
		if got := load(t, src).OnUnknownSite(); got != want {
			t.Errorf("%q: %s, want %s", src, got, want)
		}
	}
}

func TestSiteReceiveDoesNotAllocate(t *testing.T) {
	old := load(t, onlyA)
	s, _ := Check(map[string][]byte{"main.hcl": Default()}, "lab.test")
	for _, r := range []*SiteRights{old.SiteReceives("lyon"), s.SiteReceives("lyon")} {
		for _, topic := range []string{"site/home/pump-7/raw", "site/lyon/pump-7/cmd/open", "demo/hi"} {
			if n := testing.AllocsPerRun(100, func() {
				if !r.Receive(topic).Allowed {
					t.Error(topic)
				}
			}); n != 0 {
				t.Errorf("%s: %v allocations", topic, n)
			}
		}
	}
}
