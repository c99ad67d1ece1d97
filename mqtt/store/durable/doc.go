// Package durable keeps a [store.Store] on disk, in one Pebble database.
//
// One committer gathers the transactions of Update's callers, writes them as one batch
// and syncs the log once. Only then does it make the changes visible and tell the
// callers. A transaction without a callback is written with the next batch, or after a
// moment without a sync. Lost power takes at most the last second of such transactions,
// and an entry of a queue that it brings back was confirmed by a client.
//
// In memory are the sessions, the retained messages, the values, and of each entry of a
// queue its size and expiry. The messages of queues and logs are in memory only as far
// as the cache allows; the rest is read from disk on demand. All of it is rebuilt when
// the database is opened. An entry holds its own copy of the message, also where one
// message went to many queues: nothing is shared on disk, so nothing has to be counted
// or collected.
//
// When the disk is nearly full, or the files take more than they may, additions are
// refused, and removed entries are cleared away at once; otherwise Pebble does that in
// its own time.
//
// A disk that refuses a write costs the transactions of that batch and the later ones
// until it takes writes again; see [Store.Run]. Nothing of a refused transaction is
// ever seen. Damaged tables are set aside and reported, and their readable part is
// kept; see [Open].
//
// The package decides how messages, sessions and values lie in keys, and in which order
// they reach the disk. Package disk decides which files count and what happens to
// damaged ones, and knows no messages. Limits of queues, and the matches of filters,
// are as in [store.Memory].
package durable
