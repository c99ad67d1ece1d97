//go:build unix

package socket

import (
	"errors"
	"syscall"
)

const canTryWrite = true

// tryWrite writes to a non-blocking descriptor. again tells that it would block.
func tryWrite(fd uintptr, b []byte) (n int, again bool, err error) {
	n, err = syscall.Write(int(fd), b)
	switch {
	case errors.Is(err, syscall.EINTR):
		return 0, false, nil
	case errors.Is(err, syscall.EAGAIN):
		return 0, true, nil
	case err != nil:
		return 0, false, err
	}
	return n, n < len(b), nil
}
