package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/node/control"
)

// The agent's own files in the identity's directory.
const (
	rulesFile  = "policy.slice" // the newest signed rules
	statusFile = "status.json"  // see status
	lockFile   = "agent.lock"   // held while an agent runs
)

// identityDir returns the directory to use: the one that was named, the current
// one if it holds an identity, else the only subdirectory that does.
func identityDir(named string) (string, error) {
	const enrolFirst = "enrol this device first: hpmq-enroll --out DIR TICKET"
	if named != "" {
		if !holdsIdentity(named) {
			return "", &control.Error{Code: control.NotFound, Err: fmt.Errorf("%s holds no identity: no %s there", named, identity.CertFile), Hint: enrolFirst}
		}
		return named, nil
	}
	if holdsIdentity(".") {
		return ".", nil
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		if holdsIdentity(e.Name()) {
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 0:
		return "", &control.Error{Code: control.NotFound, Err: errors.New("no identity in this directory or directly below it"), Hint: enrolFirst + ", or name its directory with --dir"}
	case 1:
		return found[0], nil
	}
	return "", &control.Error{Code: control.Invalid, Err: fmt.Errorf("%d identities here: %s", len(found), strings.Join(found, ", ")), Hint: "choose one, as --dir " + found[0]}
}

func holdsIdentity(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, identity.CertFile))
	return err == nil && info.Mode().IsRegular()
}

// openIdentity opens the directory of a device or a service.
func openIdentity(dir string) (*identity.Store, error) {
	store, err := identity.OpenStore(dir)
	if err != nil {
		return nil, err
	}
	svid := store.SVID()
	if svid == nil {
		return nil, &control.Error{Code: control.NotFound, Err: fmt.Errorf("%s holds no identity", dir), Hint: "enrol this device first: hpmq-enroll --out DIR TICKET"}
	}
	if svid.ID.Kind != identity.Device && svid.ID.Kind != identity.Service {
		return nil, &control.Error{Code: control.Denied, Err: fmt.Errorf("%s in %s cannot be an agent: it is no device or service", svid.ID.Short(), dir)}
	}
	return store, nil
}

// removeFile removes a file of dir if it is there.
func removeFile(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
