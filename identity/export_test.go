package identity

import "io/fs"

// OnDisk makes s write with replace from now on.
func (s *Store) OnDisk(replace func(path string, data []byte, perm fs.FileMode) error) {
	s.replace = replace
}

// OpenStoreOn opens a store that writes with replace from the beginning.
func OpenStoreOn(dir string, replace func(path string, data []byte, perm fs.FileMode) error) (*Store, error) {
	s := &Store{dir: dir, replace: replace}
	return s, s.Reload()
}
