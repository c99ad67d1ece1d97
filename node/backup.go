package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hpmq/hpmq/internal/archive"
	"github.com/hpmq/hpmq/node/control"
)

const (
	stagingPrefix = "backup-" // in the data directory, while a backup is made
	messagesName  = "messages"
	caName        = "ca"
)

// serveBackup sends a backup. After its beginning, breaking off is the only way to
// report an error.
func (n *api) serveBackup(w http.ResponseWriter, r *http.Request) {
	var q control.BackupRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&q); err != nil {
		control.Refuse(w, control.Invalidf("malformed request: %v", err))
		return
	}
	if !n.backingUp.TryLock() {
		control.Refuse(w, &control.Error{Code: control.Conflict, Err: errors.New("another backup is being made"), Hint: "wait for its end"})
		return
	}
	defer n.backingUp.Unlock()
	created := time.Now().UTC().Truncate(time.Second)
	staged, err := n.stageBackup(q.WithoutCA)
	defer os.RemoveAll(staged)
	if err != nil {
		control.Refuse(w, fmt.Errorf("back up: %w", err))
		return
	}
	control.Unhurried(w)
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set(control.BackupNameHeader, fmt.Sprintf("hpmq-%s-%s.tar", n.id.Name, created.Format("20060102T150405Z")))
	a := archive.NewWriter(w, archive.Manifest{
		Created: created, Version: n.cfg.Version, Node: n.id.Name, Site: n.site,
		TrustDomain: n.id.TrustDomain, CA: n.authority != nil, WithoutCA: q.WithoutCA,
	})
	if err := errors.Join(a.AddTree(staged), a.Close()); err != nil {
		if r.Context().Err() == nil {
			n.log.WithError(err).Warn("backup broken off")
		}
		panic(http.ErrAbortHandler) // the client must not take the backup for whole
	}
}

// stageBackup gathers the state of one instant in a directory, by links. The
// caller removes it, also after an error.
func (n *api) stageBackup(withoutCA bool) (string, error) {
	left, _ := filepath.Glob(filepath.Join(n.cfg.DataDir, stagingPrefix+"*")) // left by a backup that was killed
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	staged, err := os.MkdirTemp(n.cfg.DataDir, stagingPrefix)
	if err != nil {
		return "", err
	}
	if err := n.messages.Backup(filepath.Join(staged, messagesName)); err != nil {
		return staged, err
	}
	return staged, linkFiles(n.cfg.DataDir, staged, func(name string) bool {
		return !inBackup(name) || withoutCA && name == caName
	})
}

// inBackup reports whether a backup has the entry name of a data directory. Messages
// get into a backup in another way; the other entries are made again.
func inBackup(name string) bool {
	switch name {
	case "lock", control.SocketName, MQTTSocketName, "cache":
		return false
	}
	return !strings.HasPrefix(name, messagesName) && !strings.HasPrefix(name, stagingPrefix)
}

// linkFiles links the files below from into to. It leaves out hidden files, and the
// files at the top that leave names. The node replaces its files and never writes
// into them, so a link keeps the old content. A key and its certificate are two
// files: linkFiles starts again until no file was replaced meanwhile.
func linkFiles(from, to string, leave func(name string) bool) error {
	for range 5 {
		linked, err := linkOnce(from, to, leave)
		if err != nil {
			return err
		}
		if same(linked) {
			return nil
		}
		for _, link := range linked {
			if err := os.Remove(link); err != nil {
				return err
			}
		}
	}
	return errors.New("the files of the data directory change all the time")
}

// linkOnce returns its links by the files' paths.
func linkOnce(from, to string, leave func(name string) bool) (map[string]string, error) {
	linked := map[string]string{}
	return linked, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file
		}
		if err != nil || path == from {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") || leave(name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		switch target := filepath.Join(to, name); {
		case d.IsDir():
			if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		case d.Type().IsRegular():
			linked[path] = target
			return os.Link(path, target)
		}
		return nil
	})
}

// same reports whether each file is still the one that was linked.
func same(linked map[string]string) bool {
	for path, link := range linked {
		now, err := os.Lstat(path)
		if err != nil {
			return false
		}
		then, err := os.Lstat(link)
		if err != nil || !os.SameFile(now, then) {
			return false
		}
	}
	return true
}
