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
	n := &Node{}
	pump := directory.Identity{ID: testID(identity.Device, "pump-7"), Labels: map[string]string{"tier": "slow"}, Site: "lyon"}
	if life, grace := n.lifetime(pump); life != 0 || grace != 0 || n.maxStale(pump) != 0 {
		t.Errorf("without a policy: %v %v %v", life, grace, n.maxStale(pump))
	}
	n.policy = policy.NewLive(policy.LiveOptions{TrustDomain: "lab.test"})
	if _, err := n.policy.Apply(map[string][]byte{"main.hcl": []byte(`
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
	if life, grace := n.lifetime(pump); life != 7*day || grace != 10*day || n.maxStale(pump) != 2*day {
		t.Errorf("by policy: %v %v %v", life, grace, n.maxStale(pump))
	}
}
