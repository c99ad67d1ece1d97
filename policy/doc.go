// Package policy decides what an identity may do.
//
// Policy files (HCL, *.hcl) are compiled once by [Load] to a [Set] that never
// changes. [Check] also runs the tests that the files carry and lints them; it must
// pass before a version is put in force. The broker takes a
// [Session] per connected identity and asks it one question per PUBLISH, per
// SUBSCRIBE and, for filtered subscriptions, per delivery; the overlay asks
// [Set.Connect] once per flow and hands agents their [Set.Slice]; the function
// manager asks [Set.Bindings]; a link takes [Set.SiteReceives] per site and asks it
// once per message. Nothing is interpreted per message.
//
// # Rules
//
// Anything that is not granted is denied. Grants add up; one matching deny beats
// every grant. Each answer knows the rule it came from as `grant "sensor"
// main.hcl:14`. A refusal that no rule made names the grant that came nearest,
// worked out only on demand.
//
//   - publish needs a publish grant; with the retain flag also a retain grant.
//     A will needs a will grant, a retained will also a retain grant. A deny of
//     publish stops wills as well: a will is a publish that comes later.
//   - subscribe needs one granted filter that covers the asked one. A deny that
//     covers it refuses; a deny that only overlaps it grants the subscription
//     with [Decision.Filtered] set, and [Session.Receive] decides each delivery.
//   - $share/group/f is decided as f, or by a grant that is itself written
//     $share/group/f, which grants that shared subscription only.
//   - limits bound an identity as a whole: if several grants limit it, the lowest
//     counts. To give more to one identity, except it from the grant that limits.
//   - receive is a right of sites, site:NAME, and their only one: a message goes to a
//     site when one topics block gives it and no deny of receive matches. except
//     leaves topics out of its own block. Before version 2 sites receive everything.
//   - a leading + or # never matches a topic that begins with $.
//
// # When an identity lacks a value
//
// ${id.site}, ${id.labels.x} and ${session.site} are expanded once per session.
// A grant can need a value, for its filter or its condition, that the identity does
// not have, or that holds one of / + # $. Such a grant is not given: the filter is
// left out. A deny errs to the other side: the level with the missing value becomes
// +, and a condition that cannot be decided counts as true. So it does for the limits
// of a grant. To deny by label, deny a group that selects the label: an identity
// without the label is not in the group.
//
// Policy knows identities, topics and ports. It knows no sockets, no sessions
// of MQTT and no clock, and it does not know which identities exist.
package policy
