package node

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/node/trust"
	"github.com/hpmq/hpmq/policy"
)

// Why is the endpoint of "hpmq why". Its reply is policy's own.
var Why = control.Endpoint[control.WhyRequest, policy.Explanation]{Method: http.MethodPost, Path: "/v1/why"}

// lookup finds an identity's labels and site for policy, whether or not it may
// be used.
func (n *api) lookup(id identity.ID) (policy.Subject, bool) {
	sub, err := n.trust.Subject(id)
	_, known := n.directory.Identity(id)
	return sub, known || err == nil
}

// why gives the decision of the broker and the agents, and explains it by the policy.
func (n *api) why(q control.WhyRequest) (*policy.Explanation, error) {
	if name, ok := strings.CutPrefix(q.Who, "site:"); ok {
		return n.whySite(name, q)
	}
	id, err := identity.ParseShort(n.id.TrustDomain, q.Who)
	if err != nil {
		return nil, control.Fail(control.Invalid, "", err)
	}
	sub, known := n.lookup(id)
	if !known {
		return nil, &control.Error{
			Code: control.NotFound, Err: fmt.Errorf("no identity is called %s", id.Short()),
			Hint: "see: hpmq device list",
		}
	}
	set := n.policy.Set()
	e, err := set.Explain(sub, q.Action, q.Object, n.lookup)
	builtIn := policy.Explanation{Subject: sub.ID.Short(), Action: q.Action, Object: q.Object, Groups: e.Groups}
	if v, reserved := mqtt.Reserved(q.Action, q.Object); reserved { // as the broker decides it
		builtIn.Allowed, builtIn.Rule, builtIn.Reason = v.Allowed, v.Rule, v.String()
	}
	if reason := n.barred(id, q.Action); reason != "" {
		builtIn.Allowed, builtIn.Rule, builtIn.Reason = false, "", reason
	}
	switch {
	case builtIn.Reason != "":
		return &builtIn, nil
	case err != nil:
		return nil, control.Fail(control.Invalid, "hpmq why pump-7 publish|subscribe TOPIC, or hpmq why user:anna connect pump-7:8080", err)
	}
	rights := trust.NewRights(set.Session(sub))
	if d, asked := rights.Decide(q.Action, q.Object); asked && d.Allowed && !e.Allowed {
		e.Allowed, e.Reason = true, "the user who runs a node may publish on topics that no deny forbids, at its site; other sites do not get it: "+e.Reason
		e.Limits = rights.Limits().List()
	}
	return &e, nil
}

// barred gives the reason why id may not act here even with a grant, or "".
func (n *api) barred(id identity.ID, action string) string {
	subject := n.trust.Subject
	if action == "connect" {
		subject = n.trust.Caller
	}
	if _, err := subject(id); err != nil {
		return err.Error()
	}
	return ""
}

// whySite tells whether a site may receive a message.
func (n *api) whySite(name string, q control.WhyRequest) (*policy.Explanation, error) {
	const usage = "hpmq why site:lyon receive TOPIC"
	set := n.policy.Set()
	sub, err := n.knownSite(name, set)
	switch {
	case err != nil:
		return nil, err
	case q.Action != "receive":
		return nil, control.Fail(control.Invalid, usage, errors.New("a site only receives; its devices, users and service:local do the rest"))
	}
	e, err := set.Explain(sub, q.Action, q.Object, n.lookup)
	if err != nil {
		return nil, control.Fail(control.Invalid, usage, err)
	}
	if strings.HasPrefix(q.Object, "$") {
		e = policy.Explanation{Subject: e.Subject, Action: e.Action, Object: e.Object, Groups: e.Groups, Reason: "topics that begin with $ stay at their site"}
	}
	return &e, nil
}

// knownSite returns a site as policy sees it.
func (n *api) knownSite(name string, set *policy.Set) (policy.Subject, error) {
	known := name == n.site
	for _, rec := range n.directory.Nodes() {
		known = known || rec.Site == name
	}
	if !known {
		return policy.Subject{}, &control.Error{
			Code: control.NotFound, Err: fmt.Errorf("no site is called %q", name), Hint: "see: hpmq site list",
		}
	}
	return set.Site(name), nil
}
