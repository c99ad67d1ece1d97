package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/internal/atomicfile"
)

// backupRequest asks a node for a backup.
type backupRequest struct {
	WithoutCA bool `json:"without_ca"`
}

// backupReply is the answer of "hpmq backup" and "hpmq restore".
type backupReply struct {
	File    string    `json:"file"`
	Data    string    `json:"data,omitempty"` // the directory restored into
	Node    string    `json:"node"`
	Site    string    `json:"site"`
	Created time.Time `json:"created"`
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"`
	CAKeys  bool      `json:"ca_keys"` // the certificate authority's keys are in it
}

func newBackupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE|DIR|-",
		Short: "Copy a running node's whole state into one file",
		Long: `Copy a running node's whole state into one file: messages, sessions, directory,
identity, policy, functions, passwords. Every message that was acknowledged before
the backup began is in it. Clients are served meanwhile.

The file holds the node's private key and, on a certificate authority, the keys of
the authority: whoever reads it can speak for the node and make identities. It is
written with mode 0600; keep it as you keep the keys, or let it never touch a disk
unencrypted, by writing it to standard output with "-". --without-ca leaves the
authority's keys out; keep the ca directory elsewhere then, a restore asks for it.

The copy is checked while it is written, and replaces an older FILE only when it is
whole. In a DIR the file is named for the node and the time.`,
		Example: `  hpmq backup /backups                      every night, from cron
  hpmq backup home.tar -o json
  hpmq backup - | age -r age1… > home.tar.age
  hpmq restore home.tar --data /var/lib/hpmq`,
		Args: cobra.ExactArgs(1),
	}
	addOutputFlag(cmd)
	without := cmd.Flags().Bool("without-ca", false, "leave out the keys of the certificate authority")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if args[0] == "-" && terminal(cmd.OutOrStdout()) {
			return usagef("a backup is not for a terminal: name a FILE, or pipe it on")
		}
		c, err := dialControl(cmd)
		if err != nil {
			return err
		}
		resp, err := c.stream(cmd.Context(), "/v1/backup", backupRequest{WithoutCA: *without})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if args[0] == "-" {
			_, err := writeBackup(cmd, resp.Body, cmd.OutOrStdout())
			return err
		}
		reply, err := saveBackup(cmd, resp, args[0])
		if err != nil {
			return err
		}
		return printAnswer(cmd, reply, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %d files, %s, of node %s at site %s\n", reply.File, reply.Files, binarySize(reply.Bytes), reply.Node, reply.Site)
			if reply.CAKeys {
				fmt.Fprintln(w, "It holds the keys of the certificate authority: keep it as you keep them.")
			}
		})
	}
	return cmd
}

// saveBackup writes the backup to path, or to a file of its own in the
// directory path.
func saveBackup(cmd *cobra.Command, resp *http.Response, path string) (*backupReply, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, filepath.Base(resp.Header.Get(backupNameHeader)))
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return nil, fail(exitUsage, "choose another FILE", err)
	}
	m, err := writeBackup(cmd, resp.Body, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what is there of it is worth nothing
		return nil, err
	}
	return newBackupReply(path, m), atomicfile.SyncDir(filepath.Dir(path))
}

func newBackupReply(file string, m *manifest) *backupReply {
	return &backupReply{
		File: file, Node: m.Node, Site: m.Site, Created: m.Created, Files: len(m.Files), Bytes: m.bytes(),
		CAKeys: m.CA && !m.WithoutCA,
	}
}

// writeBackup copies a backup to w and checks it on the way.
func writeBackup(cmd *cobra.Command, from io.Reader, w io.Writer) (*manifest, error) {
	seen := newProgress(cmd.ErrOrStderr(), "backup")
	defer seen.end()
	m, err := readArchive(io.TeeReader(from, io.MultiWriter(w, seen)), nil)
	if err != nil {
		return nil, &failure{
			code: exitFailure, err: fmt.Errorf("the backup is not whole: %w", err),
			hint: "the node's log may say why; an older file of that name is as it was",
		}
	}
	return m, nil
}

// progress counts what is written to it, and shows it on a terminal.
type progress struct {
	out   io.Writer // nil elsewhere
	what  string
	bytes int64
	shown time.Time
}

func newProgress(w io.Writer, what string) *progress {
	p := &progress{what: what}
	if terminal(w) {
		p.out = w
	}
	return p
}

// Write implements [io.Writer].
func (p *progress) Write(b []byte) (int, error) {
	p.bytes += int64(len(b))
	if p.out != nil && time.Since(p.shown) > 200*time.Millisecond {
		p.shown = time.Now()
		fmt.Fprintf(p.out, "\r%s: %s ", p.what, binarySize(p.bytes))
	}
	return len(b), nil
}

// end clears the line.
func (p *progress) end() {
	if p.out != nil && !p.shown.IsZero() {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// binarySize is n bytes for people.
func binarySize(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// The node's side.

const (
	backupNameHeader = "Hpmq-Backup-Name"
	stagingPrefix    = "backup-" // in the data directory, while a backup is made
	messagesName     = "messages"
	caName           = "ca"
)

// serveBackup sends a backup. An error after its beginning can only be told by
// breaking off.
func (n *node) serveBackup(w http.ResponseWriter, r *http.Request) {
	var q backupRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&q); err != nil {
		refuseControl(w, usagef("malformed request: %v", err))
		return
	}
	if !n.backingUp.TryLock() {
		refuseControl(w, &failure{code: exitConflict, err: errors.New("another backup is being made"), hint: "wait for its end"})
		return
	}
	defer n.backingUp.Unlock()
	created := time.Now().UTC().Truncate(time.Second)
	staged, err := n.stageBackup(q.WithoutCA)
	defer os.RemoveAll(staged)
	if err != nil {
		refuseControl(w, fmt.Errorf("back up: %w", err))
		return
	}
	unhurried(w)
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set(backupNameHeader, fmt.Sprintf("hpmq-%s-%s.tar", n.id.Name, created.Format("20060102T150405Z")))
	a := newArchiver(w, manifest{
		Format: archiveFormat, Created: created, Version: version, Node: n.id.Name, Site: n.site,
		TrustDomain: n.id.TrustDomain, CA: n.authority != nil, WithoutCA: q.WithoutCA,
	})
	if err := errors.Join(a.addTree(staged), a.close()); err != nil {
		if r.Context().Err() == nil {
			n.log.WithError(err).Warn("backup broken off")
		}
		panic(http.ErrAbortHandler) // the asker must not take it for whole
	}
}

// stageBackup gathers the state of one instant in a directory, by links. The
// caller removes it, also after an error.
func (n *node) stageBackup(withoutCA bool) (string, error) {
	left, _ := filepath.Glob(filepath.Join(n.cfg.DataDir, stagingPrefix+"*")) // by one that was killed
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

// inBackup tells whether a backup has the entry name of a data directory.
// Messages are there by other means; the rest is made again.
func inBackup(name string) bool {
	switch name {
	case "lock", socketName, mqttSocket, "cache":
		return false
	}
	return !strings.HasPrefix(name, messagesName) && !strings.HasPrefix(name, stagingPrefix)
}

// linkFiles links the files below from, without those that leave names at the
// top and without hidden ones, into to. Files are replaced, not written to, so
// that a link keeps what was there; and as a key and its certificate are two
// files, it does so again until none was replaced meanwhile.
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

// same reports whether each file still is what was linked.
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
