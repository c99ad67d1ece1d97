package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/hpmq/hpmq/policy/slice"
)

// network is one network block: which targets, which ports.
type network struct {
	dst   selector
	ports []slice.PortRange
}

func (n *network) includes(protocol string, port uint16) bool {
	return slices.ContainsFunc(n.ports, func(p slice.PortRange) bool { return p.Includes(protocol, port) })
}

func (r *reader) network(u *rule, b *hclsyntax.Block) {
	ports := "allow"
	if u.deny {
		ports = "ports" // "allow" inside a deny would read as its opposite
	}
	if a := b.Body.Attributes["allow"]; a != nil && u.deny {
		r.errorf(a.NameRange, "in a deny, write ports = […] for what is refused")
		return
	}
	r.known(b.Body, "network", []string{"dst", "to", ports}, nil)
	n := &network{}
	u.network = append(u.network, n)
	dst := "dst"
	if b.Body.Attributes["to"] != nil {
		dst = "to"
	}
	if dst == "to" && b.Body.Attributes["dst"] != nil {
		r.errorf(b.Body.Attributes["to"].NameRange, "dst and to are two words for the same: give one")
	}
	r.selector(b.Body, dst, &n.dst)
	for _, p := range n.dst.patterns {
		if strings.HasPrefix(p.name, sitePrefix) {
			r.errorf(b.Body.Attributes[dst].Expr.Range(), "a site has no ports: name its devices, as %q or by a group of labels", "device:*")
		}
	}
	for _, l := range r.texts(b.Body, ports) {
		p, err := parsePorts(l.text)
		if err != nil {
			r.errorf(l.at, "%v", err)
			continue
		}
		n.ports = append(n.ports, p)
	}
	if len(n.dst.text) == 0 {
		r.errorf(b.DefRange(), "a network block needs the targets: dst = [\"device:…\"]")
	}
	if len(n.ports) == 0 {
		r.errorf(b.DefRange(), "a network block needs ports: %s = [\"tcp/22\"]", ports)
	}
}

// parsePorts reads tcp/22, udp/8000-8100 or tcp/*.
func parsePorts(s string) (slice.PortRange, error) {
	wrong := fmt.Errorf("ports %q: want tcp/22, udp/8000-8100 or tcp/*", s)
	protocol, ports, ok := strings.Cut(s, "/")
	if !ok || protocol != "tcp" && protocol != "udp" {
		return slice.PortRange{}, wrong
	}
	if ports == "*" {
		return slice.PortRange{Network: protocol, First: 1, Last: 65535}, nil
	}
	first, last, ranged := strings.Cut(ports, "-")
	if !ranged {
		last = first
	}
	a, errA := parsePort(first)
	b, errB := parsePort(last)
	if errA != nil || errB != nil || a > b {
		return slice.PortRange{}, wrong
	}
	return slice.PortRange{Network: protocol, First: a, Last: b}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = errors.New("port 0")
	}
	return uint16(n), err
}

// Connect decides a new flow from one identity to a port of another. protocol is tcp or
// udp. It is decided at the target's side, where no session of the caller is known: a
// condition on session.site is undecided.
func (s *Set) Connect(from, to Subject, protocol string, port uint16) Decision {
	from.SessionSite = ""
	caller, callerOK := s.member(from)
	target, targetOK := s.member(to)
	if !callerOK || !targetOK {
		return Decision{reason: fmt.Sprintf("no grant to connect %s to %s: not both of this trust domain", clip(caller.name, 60), clip(target.name, 60))}
	}
	var granted, nearest, notGiven, elsewhere *rule
	for _, i := range s.rulesFor(&caller) {
		r := s.rules[i]
		if len(r.network) == 0 {
			continue
		}
		reaches, includes := r.reaches(&target, protocol, port)
		applies, _ := r.applies(&caller)
		switch {
		case reaches && includes && applies && r.deny:
			return Decision{Rule: r.cite, rule: r}
		case r.deny:
		case reaches && includes && applies:
			granted = cmp.Or(granted, r)
		case reaches && applies:
			nearest = cmp.Or(nearest, r)
		case reaches:
			notGiven = cmp.Or(notGiven, r)
		case applies:
			elsewhere = cmp.Or(elsewhere, r)
		}
	}
	if granted != nil {
		return Decision{Allowed: true, Rule: granted.cite}
	}
	d := Decision{nearestRule: cmp.Or(nearest, notGiven, elsewhere)}
	d.reason = s.noFlow(&caller, &target, fmt.Sprintf("%s/%d", protocol, port), d.nearestRule)
	return d
}

// reaches reports whether a network block of r names target, and whether such a
// block includes the port.
func (r *rule) reaches(target *member, protocol string, port uint16) (reaches, includes bool) {
	for _, n := range r.network {
		if n.dst.match(target.name, target.groups) {
			reaches = true
			includes = includes || n.includes(protocol, port)
		}
	}
	return reaches, includes
}

// noFlow explains a refused flow that no deny refused.
func (s *Set) noFlow(caller, target *member, port string, nearest *rule) string {
	head := fmt.Sprintf("no grant to connect %s to %s %s", caller.name, target.name, port)
	if nearest == nil {
		if len(caller.groups) == 0 {
			return clip(head+"; no network grant names the caller, who is in no group", maxReason)
		}
		return clip(head+"; no network grant for the caller's groups: "+strings.Join(s.groupList(caller), ", "), maxReason)
	}
	if _, problem := nearest.applies(caller); problem != "" {
		return clip(head+"; "+nearest.cite+" is not given: `when` "+problem, maxReason)
	}
	var blocks []string
	for _, n := range nearest.network {
		blocks = append(blocks, n.String())
	}
	return clip(head+"; nearest: "+nearest.cite+" reaches "+strings.Join(blocks, "; "), maxReason)
}

// String returns the targets and ports, for people.
func (n *network) String() string {
	ports := make([]string, len(n.ports))
	for i, p := range n.ports {
		ports[i] = p.String()
	}
	return n.dst.String() + " " + strings.Join(ports, ", ")
}
