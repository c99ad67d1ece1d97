package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// usage is the cost of a process so far.
type usage struct {
	cpu          time.Duration // user and system, all threads, ended ones too
	user, system time.Duration // its parts, in steps of 10 ms
	rss          int64         // bytes
}

// cpuClock is the clock of a process's processor time (the kernel's
// MAKE_PROCESS_CPUCLOCK with CPUCLOCK_SCHED): it counts nanoseconds, where
// /proc/PID/stat has steps of 10 ms.
func cpuClock(pid int) int32 { return int32(^pid<<3 | 2) }

func (t *Target) checkPID() error {
	if t.PID == 0 {
		return nil
	}
	const most = 1 << 22 // the kernel's PID_MAX_LIMIT
	var ts unix.Timespec
	err := error(unix.ESRCH)
	if t.PID > 0 && t.PID <= most {
		err = unix.ClockGettime(cpuClock(t.PID), &ts)
	}
	if err != nil {
		return fmt.Errorf("no process %d on this machine: %w", t.PID, err)
	}
	return nil
}

// usage of the broker; zero if its process is not known.
func (t *Target) usage() usage {
	var u usage
	if t.PID == 0 {
		return u
	}
	var ts unix.Timespec
	if unix.ClockGettime(cpuClock(t.PID), &ts) == nil {
		u.cpu = time.Duration(ts.Nano())
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.PID))
	// Fields are counted after the command's name, which may hold spaces: proc(5).
	const user, system, rss = 11, 12, 21
	const tick = 10 * time.Millisecond // USER_HZ
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	number := func(i int) int64 {
		if i >= len(fields) {
			return 0
		}
		n, _ := strconv.ParseInt(string(fields[i]), 10, 64)
		return n
	}
	u.user, u.system = time.Duration(number(user))*tick, time.Duration(number(system))*tick
	u.rss = number(rss) * int64(os.Getpagesize())
	return u
}

// ownCPU is the processor time of this process so far.
func ownCPU() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) // always there
	return time.Duration(ts.Nano())
}
