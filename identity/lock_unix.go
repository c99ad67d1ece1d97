//go:build unix

package identity

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// tryLock keeps other processes from enrolling or renewing in the directory until
// the returned function is called: two renewals of one certificate look like a
// stolen key to the authority.
func (s *Store) tryLock() (unlock func(), err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", s.dir, ErrBusy)
		}
		return nil, fmt.Errorf("lock %s: %w", s.dir, err)
	}
	return func() { f.Close() }, nil
}
