// Package directory keeps the facts that every node of a trust domain must
// agree on: which identities exist and with which key, which were revoked, the
// policy in force, the nodes and how to reach them.
//
// The facts are signed records in one append-only log. One node, the writer,
// holds the signer key and appends with [Directory.Put]; every other node is a
// replica with a log that is a verified prefix of the writer's. Records form a hash
// chain, so that the signature of the newest vouches for all before it, and
// the chain of signers begins with the key that every enrolment ticket pins.
// Every [HeadInterval], and after each change, the writer signs a [Head]; its age
// tells a replica, also one that just restarted, how far behind it may be.
//
// A replica follows all nodes that it is connected to ([Directory.Replicate]).
// Each tells heads and new records; history that is missing is fetched from one
// at a time, for a turn of three seconds. No choice of a source is made that
// lasts: an earlier version stayed with one source while its stream lived, and two
// replicas that had chosen each other heard nothing of the writer any more.
//
// A record is on disk, synced, before [Directory.Put] returns, before a replica
// counts it, and before any watcher or node is told. A node never gives up a record of
// its log for a peer's: a writer that was restored from an old backup, or that
// forked, is refused with both positions named, and an operator decides.
//
// The package decides what is a valid record and in which order records apply.
// It knows no certificates, no policy language, and the network only as a [Mesh]
// that opens streams. A change's meaning for live sessions is decided by the
// callers of [Directory.Watch].
package directory
