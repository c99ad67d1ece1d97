package node

import (
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/policy"
)

// TestCertificateOfPolicy has what policy says before and after there is one.
func TestCertificateOfPolicy(t *testing.T) {
	set := func() *policy.Set { return nil }
	c := certificates{func() *policy.Set { return set() }}
	pump := directory.Identity{ID: testID(identity.Device, "pump-7"), Labels: map[string]string{"tier": "slow"}, Site: "lyon"}
	if life, grace := c.lifetime(pump); life != 0 || grace != 0 || c.maxStale(pump) != 0 {
		t.Errorf("without a policy: %v %v %v", life, grace, c.maxStale(pump))
	}
	live := policy.NewLive(policy.LiveOptions{TrustDomain: "lab.test"})
	set = live.Set
	if _, err := live.Apply(map[string][]byte{"main.hcl": []byte(`
grant "slow" {
  to   = ["device:*"]
  when = id.site == "lyon" && id.labels.tier == "slow"
  certificate {
    lifetime  = "7d"
    grace     = "10d"
    max_stale = "2d"
  }
}`)}); err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	if life, grace := c.lifetime(pump); life != 7*day || grace != 10*day || c.maxStale(pump) != 2*day {
		t.Errorf("by policy: %v %v %v", life, grace, c.maxStale(pump))
	}
}
