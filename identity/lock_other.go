//go:build !unix

package identity

import "os"

// tryLock does not keep other processes out on this system; run one at a time.
func (s *Store) tryLock() (unlock func(), err error) {
	return func() {}, os.MkdirAll(s.dir, 0o700)
}
