// Package disk keeps one Pebble database on a disk that fails, fills up or
// returns other bytes than were written.
//
// A [Dir] is the directory of the database. It decides which files count when
// the database is opened, which are set aside as damaged, which keys of a damaged
// database are copied to a new one, and whether the disk has room to grow. A
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
// The package does not know the meaning of keys and values, and nothing of
// messages, sessions or transactions. It assumes that keys begin with a byte from
// 0x00 to 0xfe, and that most end in a big-endian counter: that only makes a repair
// faster. The caller decides when to commit, when to look at the room, and how to
// live through an outage. The lines for the operator speak of a store of messages,
// because that is the use of these files in the product.
package disk
