// Package disk keeps one Pebble database on a disk that fails, fills up or
// returns other bytes than were written.
//
// A [Dir] is the directory of the database. It decides which files count when
// the database is opened, what is set aside as damaged, what of a damaged
// database is copied to a new one, and how much room the disk must have. A
// [Database] is one opening of these files. The first write that the disk
// refuses costs the Database, not the process: the data stay readable as they
// were before that write, and [Dir.Reopen] opens the files anew with all that
// was acknowledged and nothing that was refused.
//
// The files, all but the first beside the directory, which a repair renames:
//
//	<path>/               Pebble's files, and MANIFEST-*.copy, see guard and manifest.go
//	<path>.lock           held from [Lock] to [Dir.Unlock]
//	<path>.ballast        room that is given up when the disk is full at a start
//	<path>.repaired/      a repair that is not finished
//	<path>.damaged-<UTC>/ damaged files, kept for the operator
//
// The package reads Pebble's manifest and log itself, because Pebble takes damage
// at their end for a write that was cut short. It knows their format up to
// [pebble.FormatTableFormatV6], at which the format is pinned.
//
// The package does not know what the keys and values mean, and nothing of
// messages, sessions or transactions. It assumes that keys begin with a byte from
// 0x00 to 0xfe, and that most end in a big-endian counter: that only makes a repair
// faster. When to commit, when to look at the room, and what to do during an
// outage is the caller's decision. What the log tells the operator speaks of a
// store of messages, for that is what the files are to the operator.
package disk
