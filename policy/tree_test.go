package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// specMatch is section 4.7 of MQTT 5.0 written down as slowly as it reads.
func specMatch(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	if strings.HasPrefix(topic, "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, level := range f {
		if level == "#" {
			return true // the parent level is i == len(t)
		}
		if i >= len(t) || level != "+" && level != t[i] {
			return false
		}
	}
	return len(f) == len(t)
}

// words returns all sequences of 1 to depth levels.
func words(levels []string, depth int) []string {
	var all, last []string
	last = []string{""}
	for n := range depth {
		var next []string
		for _, w := range last {
			for _, l := range levels {
				if n == 0 {
					next = append(next, l)
				} else {
					next = append(next, w+"/"+l)
				}
			}
		}
		all, last = append(all, next...), next
	}
	return all
}

// TestTreeAgainstScan puts many filters in one tree and compares it with asking
// each filter alone.
func TestTreeAgainstScan(t *testing.T) {
	level := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "+", "+", "", "$x"})
	filter := rapid.Custom(func(t *rapid.T) string {
		f := strings.Join(rapid.SliceOfN(level, 1, 4).Draw(t, "levels"), "/")
		return f + rapid.SampledFrom([]string{"", "", "/#"}).Draw(t, "end")
	})
	rapid.Check(t, func(t *rapid.T) {
		filters := rapid.SliceOfN(filter, 0, 60).Draw(t, "filters")
		var all tree
		alone := make([]tree, len(filters))
		for i, f := range filters {
			l := leaf{rule: int32(i), maxQoS: byte(rapid.IntRange(0, 2).Draw(t, "qos"))}
			all.insert(f, l)
			alone[i].insert(f, l)
		}
		q := asked{qos: byte(rapid.IntRange(0, 2).Draw(t, "asked"))}
		object := filter.Draw(t, "object")
		for name, ask := range map[string]func(*tree) int32{
			"match":    func(tr *tree) int32 { return tr.match(strings.NewReplacer("+", "a", "#", "b").Replace(object), q) },
			"covers":   func(tr *tree) int32 { return tr.covers(object, q) },
			"overlaps": func(tr *tree) int32 { return tr.overlaps(object, q) },
		} {
			var want []int32
			for i := range alone {
				if ask(&alone[i]) >= 0 {
					want = append(want, int32(i))
				}
			}
			got := ask(&all)
			if got >= 0 && !slices.Contains(want, got) || got < 0 && want != nil {
				t.Fatalf("%s %q in %q: got %d, want one of %v", name, object, filters, got, want)
			}
		}
	})
}

// A model of one rule for the naive evaluation.
type modelRule struct {
	deny    bool
	to      []string
	except  []string
	filters map[string][]string // by action, with NAME and SITE for the values
}

func (m modelRule) source(i int) string {
	list := func(name string, of []string) string {
		if len(of) == 0 {
			return ""
		}
		quoted := make([]string, len(of))
		for i, s := range of {
			quoted[i] = fmt.Sprintf("%q", s)
		}
		joined := strings.NewReplacer("NAME", "${id.name}", "SITE", "${id.site}").Replace(strings.Join(quoted, ", "))
		return fmt.Sprintf("%s = [%s]\n", name, joined)
	}
	word := "grant"
	if m.deny {
		word = "deny"
	}
	src := fmt.Sprintf("%s \"r%d\" {\n", word, i) + list("to", m.to) + list("except", m.except) + "topics {\n"
	for _, a := range actionNames {
		src += list(a, m.filters[a])
	}
	return src + "}\n}\n"
}

func (m modelRule) selects(name string) bool {
	in := func(list []string) bool {
		return slices.ContainsFunc(list, func(s string) bool {
			return s == "*" || s == name || s == "group:g" && (name == "device:a" || name == "user:b") ||
				strings.HasSuffix(s, "*") && strings.HasPrefix(name, strings.TrimSuffix(s, "*"))
		})
	}
	return in(m.to) && !in(m.except)
}

// expanded returns the filters that hold for a name and a site, which may be
// empty.
func (m modelRule) expanded(action, name, site string) []string {
	var out []string
	for _, f := range m.filters[action] {
		if site == "" && strings.Contains(f, "SITE") {
			if !m.deny {
				continue
			}
			f = strings.ReplaceAll(f, "SITE", "+")
		}
		_, bare, _ := strings.Cut(name, ":")
		out = append(out, strings.NewReplacer("NAME", bare, "SITE", site).Replace(f))
	}
	return out
}

// TestSessionAgainstScan compares compiled sessions with a linear reading of
// the rules.
func TestSessionAgainstScan(t *testing.T) {
	// Every literal that a filter below can hold, and all depths that matter.
	topics := words([]string{"a", "z", "b", "c", "y", "$x"}, 4)
	level := rapid.SampledFrom([]string{"a", "z", "+", "NAME", "SITE"})
	filter := rapid.Custom(func(t *rapid.T) string {
		f := strings.Join(rapid.SliceOfN(level, 1, 3).Draw(t, "levels"), "/")
		return f + rapid.SampledFrom([]string{"", "/#"}).Draw(t, "end")
	})
	who := rapid.SliceOfN(rapid.SampledFrom([]string{"*", "device:a", "device:z", "device:*", "user:b", "group:g"}), 1, 2)
	rule := rapid.Custom(func(t *rapid.T) modelRule {
		m := modelRule{deny: rapid.IntRange(0, 3).Draw(t, "deny") == 0, to: who.Draw(t, "to"), filters: map[string][]string{}}
		if rapid.Bool().Draw(t, "excepting") {
			m.except = who.Draw(t, "except")
		}
		for _, a := range actionNames {
			m.filters[a] = rapid.SliceOfN(filter, 0, 2).Draw(t, a)
		}
		return m
	})
	rapid.Check(t, func(rt *rapid.T) {
		rules := rapid.SliceOfN(rule, 0, 5).Draw(rt, "rules")
		src := "version = 2\ngroup \"g\" { members = [\"device:a\", \"user:b\"] }\n"
		for i, m := range rules {
			src += m.source(i)
		}
		name := rapid.SampledFrom([]string{"device:a", "device:z", "user:b", "service:c"}).Draw(rt, "name")
		sub := subject(t, name)
		sub.Site = rapid.SampledFrom([]string{"", "a", "y"}).Draw(rt, "site")
		x := load(t, src).Session(sub)

		// any reports whether a rule of the kind has a filter for which f holds.
		holds := func(deny bool, action string, f func(filter string) bool) bool {
			return slices.ContainsFunc(rules, func(m modelRule) bool {
				return m.deny == deny && m.selects(name) && slices.ContainsFunc(m.expanded(action, name, sub.Site), f)
			})
		}
		topic := rapid.SampledFrom(topics).Draw(rt, "topic")
		on := func(deny bool, action string) bool {
			return holds(deny, action, func(f string) bool { return specMatch(f, topic) })
		}
		may := func(action string) bool { return on(false, action) && !on(true, action) }
		for what, pair := range map[string][2]bool{
			"publish":          {x.Publish(topic, 0, false, 0).Allowed, may("publish")},
			"retained publish": {x.Publish(topic, 0, true, 0).Allowed, may("publish") && may("retain")},
			"will":             {x.Will(topic, 0, false, 0).Allowed, may("will") && !on(true, "publish")},
			"retained will":    {x.Will(topic, 0, true, 0).Allowed, may("will") && may("retain") && !on(true, "publish")},
			"receive":          {x.Receive(topic).Allowed, may("subscribe")},
		} {
			if pair[0] != pair[1] {
				rt.Fatalf("%s %s %q: got %v, want %v\n%s", name, what, topic, pair[0], pair[1], src)
			}
		}

		asks := rapid.Custom(func(t *rapid.T) string {
			f := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "z", "+"}), 1, 3).Draw(t, "levels"), "/")
			return f + rapid.SampledFrom([]string{"", "/#"}).Draw(t, "end")
		}).Draw(rt, "asks")
		covered := func(f string) bool {
			return !slices.ContainsFunc(topics, func(t string) bool { return specMatch(asks, t) && !specMatch(f, t) })
		}
		overlapping := func(f string) bool {
			return slices.ContainsFunc(topics, func(t string) bool { return specMatch(asks, t) && specMatch(f, t) })
		}
		d := x.Subscribe(asks)
		want := holds(false, "subscribe", covered) && !holds(true, "subscribe", covered)
		if d.Allowed != want || d.Filtered != (want && holds(true, "subscribe", overlapping)) {
			rt.Fatalf("%s subscribe %q: got %+v, want %v\n%s", name, asks, d, want, src)
		}
	})
}

func FuzzLoad(f *testing.F) {
	f.Add(string(Default()))
	f.Add(plant)
	f.Add("grant \"a\" {\n to = [\"*\"]\n when = id.labels[\"x\"] != null ? !(1 < 2) : \"${id.name}\" == \"x\"\n topics { publish = [\"$share/${id.site}/a\", <<E\nx\nE\n] } }")
	f.Add("test \"t\" {\n as = { id = \"device:a\", labels = { (\"x\") = \"y\" } }\n deny = [\"connect device:x tcp/22\", \"subscribe $share/a/b\"]\n}")
	f.Add("version = 2\nsites {\n on_unknown = \"refuse\"\n}\ngrant \"s\" {\n to = [\"site:*\"]\n topics {\n receive = [\"#\"]\n except = [\"${id.labels.x}/+\"]\n }\n}\ndeny \"d\" {\n to = [\"site:lyon\"]\n topics { receive = [\"a/${id.site}\"] }\n}\ntest \"t\" {\n as = { id = \"site:lyon\" }\n deny = [\"receive a/lyon\"]\n}")
	f.Add("binding \"b\" {\n function = \"f\"\n on = \"upstream\"\n topics = [\"a/#\"]\n to = [\"device:*\"]\n order = 1e400\n}")
	f.Fuzz(func(t *testing.T, src string) {
		s, found := Check(map[string][]byte{"main.hcl": []byte(src)}, "lab.test")
		if (s == nil) != found.HasErrors() {
			t.Fatalf("set %v with %v", s, found)
		}
		for _, d := range found {
			if d.Summary == "" || strings.ContainsAny(d.String(), "\x1b\x00") {
				t.Fatalf("bad diagnostic %q", d.String())
			}
		}
		if s == nil {
			return
		}
		x := s.Session(subject(t, "device:a", "role", "sensor"))
		lyon := s.SiteReceives("lyon")
		if got := lyon.Receive("a/lyon").Allowed; got && !lyon.Overlaps("a/lyon") || !got && lyon.Covers("a/lyon") {
			t.Fatalf("received %v, overlaps %v, covers %v", got, lyon.Overlaps("a/lyon"), lyon.Covers("a/lyon"))
		}
		for _, d := range []Decision{lyon.Receive("site/home/a"), x.Publish("site/home/a", 1, true, 9), x.Subscribe("$share/g/site/#"), x.Receive("a"), s.Connect(subject(t, "user:a"), x.Subject(), "tcp", 22)} {
			if r := d.Reason(); r == "" || len(r) > maxReason {
				t.Fatalf("reason %q", r)
			}
		}
	})
}

// The corners in which policy once differed from the broker. A topic has at least
// one character [MQTT-4.7.3-1], so /# and /+/# are the same filter.
func TestFiltersAsTheBroker(t *testing.T) {
	x := load(t, `version = 2
grant "all-below" {
  to = ["device:a"]
  topics { subscribe = ["/+/#"] }
}
grant "wide" {
  to = ["device:b"]
  topics { subscribe = ["#"] }
}
deny "slash" {
  to = ["device:b"]
  topics { subscribe = ["/#"] }
}
`)
	if d := x.Session(subject(t, "device:a")).Subscribe("/#"); !d.Allowed {
		t.Errorf("/# under /+/#: %s", d.Reason())
	}
	if d := x.Session(subject(t, "device:b")).Subscribe("+"); !d.Allowed || d.Filtered {
		t.Errorf("no topic matches both + and /#: got %+v", d)
	}
	for f, valid := range map[string]bool{
		"a\tb": false, "a\x00": false, "$share/g": false, "a/\xff": false, // [MQTT-1.5.4-1]
		strings.Repeat("a/", 199) + "a": true,
		strings.Repeat("a/", 200) + "a": false,
	} {
		if err := validFilter(f); (err == nil) != valid {
			t.Errorf("validFilter(%.20q) = %v", f, err)
		}
	}
}
