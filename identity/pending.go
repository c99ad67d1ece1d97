package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/hpmq/hpmq/internal/atomicfile"
)

// pending is the state that must be on disk before an enrolment or renewal is sent,
// so that a crash repeats the same request instead of making a second one.
type pending struct {
	Identity ID     `json:"identity"`
	Replaces string `json:"replaces,omitempty"` // hex SHA-256 of the leaf that a renewal replaces
	Request  string `json:"request,omitempty"`  // id of a renewal
	Key      string `json:"key"`                // PKCS#8 PEM of the key that the new certificate may be for
}

// keepKey makes sure that a new key outlives a crash before its certificate is
// in place.
func (s *Store) keepKey(svid *SVID, key []byte) error {
	if p, err := s.readPending(); err == nil && p != nil && p.Key == string(key) {
		return nil
	}
	return s.writePending(&pending{Identity: svid.ID, Key: string(key)})
}

// finish completes the change of key that a crash interrupted.
func (s *Store) finish(p *pending) error {
	if err := s.write(KeyFile, []byte(p.Key), 0o600); err != nil {
		return fmt.Errorf("finish interrupted change of key: %w", err)
	}
	return s.dropPending()
}

func (s *Store) readPending() (*pending, error) {
	text, err := s.readSecret(pendingFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing is pending
	}
	if err != nil {
		return nil, err
	}
	p := new(pending)
	if err := json.Unmarshal(text, p); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path(pendingFile), err)
	}
	return p, nil
}

func (s *Store) writePending(p *pending) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return s.write(pendingFile, text, 0o600)
}

func (s *Store) dropPending() error {
	if err := os.Remove(s.path(pendingFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return atomicfile.SyncDir(s.dir)
}
