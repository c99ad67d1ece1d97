package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const limited = `
group "sensor" { labels = { role = "sensor" } }
grant "sensor" {
  to     = ["group:sensor"]
  except = ["device:cam-1"]
  limits {
    publish_messages = 50
    publish_bytes    = "64KiB"
    connections      = 2
  }
}
grant "camera" {
  to = ["device:cam-*"]
  limits { publish_messages = 100 }
}
grant "slow" {
  to   = ["device:cam-*"]
  when = id.labels.tier == "slow"
  limits { publish_bytes = 1000 }
}
grant "free" {
  to = ["*"]
  topics { publish = ["#"] }
}
`

func TestLimits(t *testing.T) {
	s := load(t, limited)
	messages := func(n int64, rule string) Limit { return Limit{"publish_messages", n, rule} }
	bytes := func(n int64, rule string) Limit { return Limit{"publish_bytes", n, rule} }
	sensor, camera, slow := `grant "sensor" main.hcl:3`, `grant "camera" main.hcl:12`, `grant "slow" main.hcl:16`
	all := Limits{messages(50, sensor), bytes(65536, sensor), Limit{"connections", 2, sensor}}
	lowest := all
	lowest.PublishBytes = bytes(1000, slow)
	for _, tt := range []struct {
		name   string
		who    string
		labels []string
		want   Limits
	}{
		{"nobody limits", "user:anna", nil, Limits{}},
		{"one grant", "device:pump-7", []string{"role", "sensor"}, all},
		{"the lowest of each", "device:cam-7", []string{"role", "sensor", "tier", "slow"}, lowest},
		{"a condition that does not hold", "device:cam-7", []string{"tier", "fast"}, Limits{PublishMessages: messages(100, camera)}},
		{"a condition that cannot be decided", "device:cam-7", nil, Limits{PublishMessages: messages(100, camera), PublishBytes: bytes(1000, slow)}},
		{"excepted", "device:cam-1", []string{"role", "sensor", "tier", "fast"}, Limits{PublishMessages: messages(100, camera)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, s.Session(subject(t, tt.who, tt.labels...)).Limits()); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
	if got := s.Session(subject(t, "device:pump-7", "role", "sensor")).Limits(); got != all {
		t.Errorf("another session changed what a rule says: %+v", got)
	}
}
