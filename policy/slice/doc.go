// Package slice carries one identity's inbound network rules to where they are
// enforced.
//
// A node compiles the rules that concern one target out of the policy, names
// every caller exactly, signs the result and gives it to the agent of that
// target. The agent decides alone with it, also when no node can be reached:
// what the slice does not allow is refused. The package knows no policy files,
// no groups and no network; which of two slices is newer it can say, where one
// is kept it does not know.
package slice
