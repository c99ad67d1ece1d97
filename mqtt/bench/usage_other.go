//go:build !linux

package bench

import (
	"errors"
	"time"
)

// usage is the cost of a process so far.
type usage struct {
	cpu, user, system time.Duration
	rss               int64
}

func (t *Target) checkPID() error {
	if t.PID != 0 {
		return errors.New("what a process costs can be measured on Linux only")
	}
	return nil
}

func (*Target) usage() usage { return usage{} }

func ownCPU() time.Duration { return 0 }
