package policy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
)

// TestWhy asks the questions of an archive and prints the answers as people get
// them. Devices named pump-… are sensors in the directory.
func TestWhy(t *testing.T) {
	eachArchive(t, "why", func(t *testing.T, files map[string][]byte) string {
		asks := string(files["ask"])
		delete(files, "ask")
		s, found := Check(files, "lab.test")
		if s == nil {
			t.Fatal(found)
		}
		directory := func(id identity.ID) (Subject, bool) {
			if strings.HasPrefix(id.Name, "pump-") {
				return subject(t, id.Short(), "role", "sensor"), true
			}
			return Subject{}, false
		}
		var b strings.Builder
		for line := range strings.Lines(asks) {
			f := strings.Fields(line)
			var sub Subject
			if name, ok := strings.CutPrefix(f[0], sitePrefix); ok {
				sub = s.Site(name)
			} else {
				sub = subject(t, f[0])
			}
			for ; strings.Contains(f[1], "="); f = f[1:] {
				k, v, _ := strings.Cut(f[1], "=")
				sub.Labels[k] = v
			}
			e, err := s.Explain(sub, f[1], strings.Join(f[2:], " "), directory)
			if err != nil {
				b.WriteString("error: " + err.Error() + "\n")
				continue
			}
			b.WriteString(e.String())
		}
		return b.String()
	})
}

func TestExplanationJSON(t *testing.T) {
	s := load(t, plant)
	e, err := s.Explain(subject(t, "device:plc-1"), "publish", "site/home/plc/plc-2/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "subject": "device:plc-1",
  "action": "publish",
  "object": "site/home/plc/plc-2/x",
  "allowed": false,
  "reason": "no grant for publish site/home/plc/plc-2/x; nearest: grant \"plc\" main.hcl:8 publishes site/home/plc/plc-1/#",
  "groups": [
    "plc"
  ],
  "nearest": [
    {
      "rule": "grant \"plc\" main.hcl:8",
      "right": "publishes site/home/plc/plc-1/#"
    },
    {
      "rule": "grant \"big\" main.hcl:19",
      "right": "publishes site/+/plc/plc-1/dump"
    }
  ],
  "not_given": [
    {
      "rule": "grant \"roaming\" main.hcl:31",
      "right": "publishes roaming/home",
      "why": "` + "`when`" + ` does not hold"
    }
  ]
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}
