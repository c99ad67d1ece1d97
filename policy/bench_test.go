package policy

import (
	"fmt"
	"strings"
	"testing"
)

// sized makes a policy of n grants to n groups, each with four filters; an
// identity is in one of the groups.
func sized(b *testing.B, n int) *Set {
	b.Helper()
	return load(b, sizedSource(n))
}

func sizedSource(n int) string {
	var src strings.Builder
	for i := range n {
		fmt.Fprintf(&src, "group \"g%d\" { members = [\"device:plc-%d-*\"] }\ngrant \"r%d\" {\n to = [\"group:g%d\"]\n topics {\n", i, i, i, i)
		var list []string
		for k := range 2 {
			list = append(list, fmt.Sprintf("\"site/${id.site}/line/${id.name}/k%d/#\"", k))
		}
		fmt.Fprintf(&src, "publish = [%s]\nsubscribe = [%s]\n }\n}\n", strings.Join(list, ", "), strings.Join(list, ", "))
	}
	return src.String()
}

func BenchmarkSet(b *testing.B) {
	for _, n := range []int{10, 1_000, 100_000} {
		b.Run(fmt.Sprintf("grants=%d", n), func(b *testing.B) {
			s := sized(b, n)
			sub := subject(b, fmt.Sprintf("device:plc-%d-x", n/2))
			x := s.Session(sub)
			topic := "site/home/line/" + sub.ID.Name + "/k1/temperature"
			b.Run("publish", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !x.Publish(topic, 1, false, 10).Allowed {
						b.Fatal("denied")
					}
				}
			})
			b.Run("publish-denied", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if x.Publish("site/home/line/other/k1/temperature", 1, false, 10).Allowed {
						b.Fatal("allowed")
					}
				}
			})
			b.Run("subscribe", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !x.Subscribe(topic + "/#").Allowed {
						b.Fatal("denied")
					}
				}
			})
			b.Run("session", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if s.Session(sub).rules == nil {
						b.Fatal("no rules")
					}
				}
			})
		})
	}
}

// BenchmarkOneIdentity gives every grant to one identity.
func BenchmarkOneIdentity(b *testing.B) {
	for _, n := range []int{15, 1_000, 100_000} {
		b.Run(fmt.Sprintf("grants=%d", n), func(b *testing.B) {
			var src strings.Builder
			for i := range n {
				fmt.Fprintf(&src, "grant \"r%d\" {\n to = [\"device:x\"]\n topics { publish = [\"site/${id.site}/line-%d/+/#\"] }\n}\n", i, i)
			}
			s := load(b, src.String())
			sub := subject(b, "device:x")
			x := s.Session(sub)
			topic := fmt.Sprintf("site/home/line-%d/a/temperature", n/2)
			b.Run("publish", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !x.Publish(topic, 1, false, 10).Allowed {
						b.Fatal("denied")
					}
				}
			})
			b.Run("session", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.Session(sub)
				}
			})
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	for name, src := range map[string]string{"default": string(Default()), "grants=1000": sizedSource(1000), "grants=10000": sizedSource(10000)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				if s, found := Check(map[string][]byte{"main.hcl": []byte(src)}, "lab.test"); s == nil {
					b.Fatal(found)
				}
			}
		})
	}
}

func BenchmarkConnect(b *testing.B) {
	s := load(b, access)
	from, to := subject(b, "user:tech@vendor.example"), subject(b, "device:pump-7", "role", "pump")
	b.ReportAllocs()
	for b.Loop() {
		if !s.Connect(from, to, "tcp", 8080).Allowed {
			b.Fatal("denied")
		}
	}
}

// BenchmarkSiteReceive is the question of a link for each message and site, by the
// first policy.
func BenchmarkSiteReceive(b *testing.B) {
	s, found := Check(map[string][]byte{"main.hcl": Default()}, "lab.test")
	if s == nil {
		b.Fatal(found)
	}
	lyon := s.SiteReceives("lyon")
	for topic, want := range map[string]bool{
		"site/home/pump-7/raw":      true, // by the block with exceptions
		"site/lyon/pump-7/raw":      true, // by its own branch
		"site/home/pump-7/cmd/open": false,
	} {
		b.Run(topic, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if lyon.Receive(topic).Allowed != want {
					b.Fatal(topic)
				}
			}
		})
	}
}
