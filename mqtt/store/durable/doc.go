// Package durable keeps a [store.Store] on disk, in one Pebble database.
//
// One committer writes what the callers of Update gathered meanwhile as one
// batch, syncs the log once, and only then makes the changes visible and tells
// the callers. A transaction that nobody waits for is written with the next
// batch, or after a moment without a sync; what a lost power supply takes of
// those is at most the last second, and an entry of a queue that it brings back
// was confirmed by a client.
//
// In memory are the sessions, the retained messages, the values, and of each
// entry of a queue its size and expiry; the messages in queues and logs only as
// far as the cache allows, the others are read when somebody asks. All of it is
// rebuilt when the database is opened. An entry holds its own copy of the
// message, also where one message went to many queues: nothing is shared on
// disk, so nothing has to be counted or collected.
//
// When the disk is nearly full, or the files take more than they may, what adds is
// refused, and what was removed is cleared away at once; otherwise Pebble does that
// in its own time.
//
// A disk that refuses a write costs the transactions of that batch and those
// that follow until it takes writes again; see [Store.Run]. Nothing of a refused
// transaction is ever seen. Damaged tables are set aside and reported, and what is
// readable in them is kept; see [Open].
//
// The package decides how messages, sessions and values lie in keys, and in which
// order they reach the disk. Package disk decides which files count, what becomes
// of damaged ones, and knows no messages. What fits into a queue, and what a filter
// finds, is as in [store.Memory].
package durable
