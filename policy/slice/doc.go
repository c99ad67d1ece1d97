// Package slice carries one identity's inbound network rules to where they are
// enforced.
//
// A node compiles the rules that concern one target out of the policy, names
// every caller exactly, signs the result and gives it to the agent of that
// target. The agent decides alone with it, also when no node can be reached:
// what the slice does not allow is refused. The package knows no policy files,
// no groups and no network, nor where a slice is kept.
//
// # Newer and older
//
// A version is no more than what its signer says. It tells which of two slices
// is newer while both are under way: from one node over two connections, or from
// two nodes of which one has not heard all yet. An agent must not hold on to it
// for longer, or one node that is captured, wrong or restored from a backup could
// give a version that nothing ever follows, and its rules would outlive its
// revocation. So an agent takes slices only from the node that it is connected to
// and that signed them, refuses an older one for [Overtake] after the newer one
// came, and then believes the node that it has. That this node has an old policy,
// because it is cut off, is then possible; its own clients live by it, too.
package slice
