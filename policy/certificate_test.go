package policy

import (
	"testing"
	"time"
)

const certified = `
grant "all" {
  to     = ["*"]
  except = ["device:kept"]
  certificate {
    lifetime  = "7d"
    max_stale = "1d12h"
  }
}
grant "camera" {
  to = ["device:cam-*"]
  certificate {
    lifetime = "90m"
    grace    = "10d"
  }
}
grant "slow" {
  to   = ["device:cam-*"]
  when = id.labels.tier == "slow"
  certificate { grace = "1h" }
}
grant "long" {
  to = ["device:*"]
  certificate { lifetime = "365d" }
}
deny "no" {
  to = ["device:cam-*"]
  topics { publish = ["x"] }
}
`

func TestCertificate(t *testing.T) {
	s := load(t, certified)
	for _, tt := range []struct {
		name, who string
		labels    []string
		want      Certificate
	}{
		{"one grant", "user:anna", nil, Certificate{Lifetime: 7 * day, MaxStale: 36 * time.Hour}},
		{"the lowest of each", "device:cam-7", []string{"tier", "slow"}, Certificate{90 * time.Minute, time.Hour, 36 * time.Hour}},
		{"a condition that does not hold", "device:cam-7", []string{"tier", "fast"}, Certificate{90 * time.Minute, 10 * day, 36 * time.Hour}},
		{"a condition that cannot be decided", "device:cam-7", nil, Certificate{90 * time.Minute, 10 * day, 36 * time.Hour}},
		{"excepted", "device:kept", nil, Certificate{Lifetime: 365 * day}},
	} {
		if got := s.Certificate(subject(t, tt.who, tt.labels...)); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
	if got := s.Certificate(Subject{}); got != (Certificate{}) {
		t.Errorf("no identity: %+v", got)
	}
}

func TestParseDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"7d": 7 * day, "1d12h": 36 * time.Hour, "90m": 90 * time.Minute, "1h30m": 90 * time.Minute, "0d": 0,
		"d": -1, "": -1, "7": -1, "1d-1h": -1, "1.5d": -1, "-1d": -1, "1h1d": -1, "99999999d": -1, "1dd": -1, "1d 2h": -1,
	} {
		got, ok := parseDays(text)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q is %v %v, want %v", text, got, ok, want)
		}
	}
}
