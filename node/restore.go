package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hpmq/hpmq/internal/archive"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/node/control"
)

// Restore puts the backup r into dir, which must be empty. ca is a directory with the
// authority's keys, for a backup without them, else "". Every file is checked before
// the first one is in its place.
func Restore(r io.Reader, dir, ca string) (*archive.Manifest, error) {
	lock, err := lockDataDir(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := checkEmpty(dir); err != nil {
		return nil, err
	}
	staged, err := os.MkdirTemp(dir, ".restore-") // there, since dir may be a file system of its own
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(staged)
	m, err := archive.Read(r, func(name string, perm fs.FileMode, body io.Reader) error {
		return writeNew(filepath.Join(staged, filepath.FromSlash(name)), perm&^0o022, body)
	})
	if err != nil {
		return nil, err
	}
	if err := restoreCA(staged, m, ca); err != nil {
		return nil, err
	}
	return m, moveInto(staged, dir)
}

// checkEmpty refuses a directory that holds anything but its lock.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			return &control.Error{
				Code: control.Conflict, Err: fmt.Errorf("%s is not empty: it holds %s", dir, e.Name()),
				Hint: "choose another directory with --data, or move that away",
			}
		}
	}
	return nil
}

// restoreCA adds the authority's keys where the backup has none.
func restoreCA(staged string, m *archive.Manifest, ca string) error {
	missing := m.CA && m.WithoutCA
	switch {
	case missing && ca == "":
		return &control.Error{
			Code: control.Invalid, Err: errors.New("this backup of a certificate authority is without its keys"),
			Hint: "say where they are: --ca DIR, a copy of the ca directory; without them the node would become another fabric",
		}
	case !missing && ca != "":
		return control.Invalidf("--ca is for backups that were made with --without-ca")
	case !missing:
		return nil
	}
	names, err := os.ReadDir(ca)
	if err != nil {
		return control.Fail(control.Invalid, "", err)
	}
	for _, d := range names {
		if !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
			continue
		}
		f, err := os.Open(filepath.Join(ca, d.Name()))
		if err != nil {
			return err
		}
		err = writeNew(filepath.Join(staged, caName, d.Name()), 0o600, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// writeNew writes a file that is on the disk when it returns.
func writeNew(path string, perm fs.FileMode, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// moveInto moves the files in staged up into dir. The settings come last: without
// them a directory is not a node's.
func moveInto(staged, dir string) error {
	settings := filepath.Base(settingsPath(dir))
	entries, err := os.ReadDir(staged)
	if err != nil {
		return err
	}
	move := func(name string) error { return os.Rename(filepath.Join(staged, name), filepath.Join(dir, name)) }
	for _, e := range entries {
		if e.Name() == settings {
			continue
		}
		if err := errors.Join(atomicfile.SyncDir(filepath.Join(staged)), move(e.Name())); err != nil {
			return err
		}
	}
	return errors.Join(atomicfile.SyncDir(dir), move(settings), atomicfile.SyncDir(dir))
}
