package disk

import (
	"errors"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hpmq/hpmq/internal/logfield"
)

// ballastSuffix ends the name of the ballast: a file that only takes room. A
// database that was killed writes its log to tables when it is opened. On a disk
// that was filled meanwhile it could not be opened, and nothing could be removed
// from it. Then the ballast goes.
//
// The ballast lies beside the directory of the database, which a repair renames, and
// is made again once there is plenty of room.
const ballastSuffix = ".ballast"

// ballastSize is as much as the log may hold that is not in tables yet; on a
// small disk it is a sixteenth.
func ballastSize(total uint64) int64 {
	const most = (queuedTables + 1) * memTableSize
	if total == 0 {
		return most
	}
	return int64(min(most, total/16))
}

// reserveOf returns how many bytes of a disk of this size stay free: a quarter of a
// small disk. A disk of unknown size, 0, is none.
func (d *Dir) reserveOf(total uint64) uint64 {
	if total == 0 {
		return d.reserve
	}
	return min(d.reserve, total/4)
}

// dropBallast reports whether there was one to give up.
func (d *Dir) dropBallast(cause error) bool {
	name := d.path + ballastSuffix
	if d.fs.Remove(name) != nil {
		return false
	}
	d.log.WithField(logfield.File, name).WithField(logfield.Reason, cause.Error()).
		Error("the disk is full: the room that was kept for this start is given up; messages that must be kept are refused until there is more")
	return true
}

// keepBallast makes the ballast if there is none and plenty of room for it. A
// file system that cannot set room aside has none.
func (d *Dir) keepBallast(u vfs.DiskUsage) {
	fs, name := d.fs, d.path+ballastSuffix
	size := ballastSize(u.TotalBytes)
	if _, err := fs.Stat(name); err == nil || u.AvailBytes < d.reserveOf(u.TotalBytes)+2*uint64(size) {
		return
	}
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return // the next look tries again
	}
	if err := errors.Join(f.Preallocate(0, size), f.Close()); err != nil {
		_ = fs.Remove(name) // it may hold a part, or nothing
	}
}
