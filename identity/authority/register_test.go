package authority

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

func TestRegister(t *testing.T) {
	l := newLab(t)
	meter := device("meter-1")
	labels := map[string]string{"role": "sensor"}
	p, err := l.Register(meter, labels, "")
	if err != nil {
		t.Fatal(err)
	}
	want := directory.Identity{ID: meter, Labels: labels, Site: "paris", State: directory.Active, Generation: 1}
	recorded, _ := l.dir.Identity(meter)
	if diff := cmp.Diff(p, want) + cmp.Diff(recorded.Labels, labels); diff != "" {
		t.Error(diff)
	}
	before := l.dir.Tip().Count
	for _, again := range []map[string]string{nil, labels} {
		if _, err := l.Register(meter, again, ""); err != nil {
			t.Error(err)
		}
	}
	_, err = l.Register(meter, map[string]string{"role": "admin"}, "")
	wantRefusal(t, err, http.StatusConflict, "meter-1")
	_, err = l.Register(meter, nil, "lyon")
	wantRefusal(t, err, http.StatusConflict, "meter-1")
	if l.dir.Tip().Count != before {
		t.Error("recorded again")
	}
	for _, kind := range []identity.Kind{identity.User, identity.Node, identity.Function} {
		if _, err := l.Register(identity.ID{TrustDomain: domain, Kind: kind, Name: "x"}, nil, ""); err == nil {
			t.Errorf("registered a %s", kind)
		}
	}

	s := l.enrol(t, "meter-1") // a key later
	if gen, _ := identity.Generation(s.Leaf()); gen != 2 {
		t.Errorf("generation %d, want 2", gen)
	}
	_, err = l.Enrol(t.Context(), request(t, l.ticket(t, identity.Device, "meter-1"), csrFor(t, newDeviceKey(t), meter)))
	wantRefusal(t, err, http.StatusConflict, "another key")

	if err := l.Revoke(meter, RevokeOptions{Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	_, err = l.Register(meter, nil, "")
	wantRefusal(t, err, http.StatusForbidden, "stolen")
	if err := l.Replace(meter); err != nil {
		t.Fatal(err)
	}
	p, err = l.Register(meter, nil, "lyon")
	if err != nil || p.Generation != 3 || p.Site != "lyon" || l.dir.Revoked(meter, 3) || !l.dir.Revoked(meter, 2) {
		t.Errorf("%+v, %v", p, err)
	}
}
