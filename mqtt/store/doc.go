// Package store keeps the state that must outlive a connection: sessions with their
// subscriptions and queues, retained messages, the outbound log of each peer site,
// dedupe floors of the messages from other sites, and the values of functions.
//
// All changes go through one committer. A caller hands [Store.Update] a function that
// adds its changes to the open transaction and a callback that runs once they are kept,
// in the order in which they were added. One publish is one transaction: its queue
// entries, its retained value and its place in the outbound logs are kept together or
// not at all.
//
// The store decides limits: how much a session's queue, the retained messages and a
// peer's log may hold, and which messages are dropped beyond that. It knows no
// connections, no policy and no protocol state other than packet identifiers.
package store
