package policy

import (
	"strings"
	"testing"
)

func TestBindings(t *testing.T) {
	s := load(t, `
group "plc" { members = ["device:plc-*"] }
binding "late" {
  function = "late"
  on       = "upstream"
  topics   = ["#"]
  to       = ["*"]
  order    = 20
}
binding "early" {
  function = "early"
  on       = "upstream"
  topics   = ["site/+/raw", "site/a/#"]
  to       = ["group:plc"]
  except   = ["device:plc-2"]
  order    = 10
  on_error = "pass"
  optional = true
}
binding "also-late" {
  function = "also"
  on       = "upstream"
  topics   = ["a"]
  to       = ["device:plc-1"]
  order    = 20
}
binding "down" {
  function = "down"
  on       = "downstream"
  topics   = ["cmd/#"]
  to       = ["*"]
}
`)
	names := func(id string, on Direction) string {
		var out []string
		for _, b := range s.Bindings(subject(t, id), on) {
			out = append(out, b.Name)
		}
		return strings.Join(out, " ")
	}
	for _, tt := range []struct {
		id   string
		on   Direction
		want string
	}{
		{"device:plc-1", Upstream, "early also-late late"},
		{"device:plc-2", Upstream, "late"},
		{"device:plc-1", Downstream, "down"},
		{"user:ann", Upstream, "late"},
	} {
		if got := names(tt.id, tt.on); got != tt.want {
			t.Errorf("%s %s: %q, want %q", tt.id, tt.on, got, tt.want)
		}
	}
	if got := s.Bindings(Subject{}, Upstream); got != nil {
		t.Errorf("nobody has %v", got)
	}
	early := s.Bindings(subject(t, "device:plc-1"), Upstream)[0]
	for topic, want := range map[string]bool{"site/x/raw": true, "site/a/b/c": true, "site/x/other": false, "$SYS/x": false} {
		if got := early.Match(topic); got != want {
			t.Errorf("Match(%q) = %v", topic, got)
		}
	}
	if early.OnError != "pass" || !early.Optional || early.Rule != `binding "early" main.hcl:10` || s.AllBindings()[0].Name != "down" || s.AllBindings()[0].OnError != "dead-letter" {
		t.Errorf("got %+v", early)
	}
}
