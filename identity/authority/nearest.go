package authority

import (
	"cmp"
	"slices"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// Nearest returns the active nodes of d in the order in which id, of the site home,
// should try them: nodes of its site, CAs, other nodes. A node tries CAs
// first. Itself is not among them.
func Nearest(d *directory.Directory, id identity.ID, home string) []directory.Node {
	nodes := slices.DeleteFunc(d.Nodes(), func(n directory.Node) bool {
		known, ok := d.Identity(n.ID)
		return n.ID == id || !ok || known.State != directory.Active
	})
	rank := func(n directory.Node) int {
		near, ca := n.Site == home, slices.Contains(n.Roles, "ca")
		switch {
		case ca && id.Kind == identity.Node:
			return 0
		case near:
			return 1
		case ca:
			return 2
		}
		return 3
	}
	slices.SortFunc(nodes, func(x, y directory.Node) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x.ID.Name, y.ID.Name))
	})
	return nodes
}

// AddressesOf returns a node that is reached by the addresses of nodes, in their
// order, at most limit of each sort.
func AddressesOf(nodes []directory.Node, limit int) directory.Node {
	var all directory.Node
	for _, n := range nodes {
		all.API = addUpTo(limit, all.API, n.API)
		all.MQTT = addUpTo(limit, all.MQTT, n.MQTT)
		all.Mesh = addUpTo(limit, all.Mesh, n.Mesh)
	}
	return all
}

func addUpTo(limit int, list, more []string) []string {
	for _, s := range more {
		if len(list) < limit && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}
