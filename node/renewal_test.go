package node

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestRenewalAddrs(t *testing.T) {
	f := newTestFabric(t, time.Now, authority.Lifetimes{})
	store, err := identity.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{id: testID(identity.Node, "lyon"), site: "lyon", directory: f.directory, store: store, cfg: &Options{Advertise: "lyon"}}
	second := directory.Node{ID: testID(identity.Node, "zz-lyon"), Site: "lyon", API: []string{"lyon2:8883"}}
	f.issue(t, identity.Node, "zz-lyon", "lyon")
	if err := f.authority.Announce(second.ID, second); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"home:8883", "lyon2:8883", "paris:8883"}, n.renewalAddrs()); diff != "" {
		t.Error(diff)
	}
	if err := f.authority.Revoke(second.ID, authority.RevokeOptions{Reason: "lost"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"home:8883", "paris:8883"}, n.renewalAddrs()); diff != "" {
		t.Error(diff)
	}
}

func TestCertificateWarning(t *testing.T) {
	ca := testca.New(t, "lab.test")
	issued := time.Now().Truncate(time.Second)
	svid := ca.SVID(t, ca.ID(t, identity.Node, "lyon"), testca.ValidFor(time.Hour), testca.Issued(t, issued))
	for after, want := range map[time.Duration]string{
		10 * time.Minute: "",
		20 * time.Minute: "",
		30 * time.Minute: "should have been renewed",
		50 * time.Minute: "from then on stock clients refuse it",
		61 * time.Minute: "ended at",
	} {
		if got := certificateWarning(svid, issued.Add(after)); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("after %s: %q", after, got)
		}
	}
}
