// Package slice carries one agent's rules to where they are enforced.
//
// The writer of the directory compiles, for one target, the rules that concern it
// out of the policy, names every caller exactly, adds the fabric's nodes with
// their addresses and keys and the nodes that are revoked, and signs the result.
// The agent of the target decides alone with it, also when no node can be reached:
// what the slice does not allow is refused.
//
// Nodes only carry a slice. The signature leads to the directory key that the
// target's enrolment ticket pinned, so a node in the wrong hands can neither write
// a rule nor hide the revocation of a node in a slice that it passes on. It can
// hold a newer slice back until [Slice.Until], unless the agent also asks another
// node.
//
// # The signed form
//
// A slice is a statement of the directory's writer over a short header: the
// target, when the slice was issued, until when it holds, and the hashes of its two
// parts. The parts, the rules and the fabric, are the same for many targets: the
// writer encodes each once, compares their hashes to see whether a target needs a
// new slice, and signs the header alone.
//
// The package knows no policy files, no groups and no network, nor where a slice
// is kept.
package slice
