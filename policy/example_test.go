package policy_test

import (
	"fmt"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/policy"
)

// A policy is compiled once, an identity's rights once per session.
func Example() {
	set, faults := policy.Check(map[string][]byte{"main.hcl": []byte(`
version      = 2
trust_domain = "lab.test"

group "sensor" {
  labels = { role = "sensor" }
}
grant "sensor" {
  to     = ["group:sensor"]
  topics { publish = ["site/${session.site}/${id.name}/#"] }
}
deny "secrets" {
  to     = ["*"]
  topics { publish = ["site/+/+/secret"] }
}
`)}, "lab.test")
	if set == nil {
		panic(faults)
	}
	pump, err := identity.NewID("lab.test", identity.Device, "pump-7")
	if err != nil {
		panic(err)
	}
	session := set.Session(policy.Subject{
		ID: pump, Labels: map[string]string{"role": "sensor"}, SessionSite: "home",
	})
	for _, topic := range []string{"site/home/pump-7/raw", "site/home/pump-7/secret", "site/lyon/pump-7/raw"} {
		d := session.Publish(topic, 1, false, 20)
		fmt.Printf("%s: %v, %s\n", topic, d.Allowed, d.Reason())
	}
	// Output:
	// site/home/pump-7/raw: true, granted by grant "sensor" main.hcl:8
	// site/home/pump-7/secret: false, denied by deny "secrets" main.hcl:12
	// site/lyon/pump-7/raw: false, no grant for publish site/lyon/pump-7/raw; nearest: grant "sensor" main.hcl:8 publishes site/home/pump-7/#
}
