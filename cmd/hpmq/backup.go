package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/internal/archive"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/node/control"
)

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
			return control.Invalidf("a backup is not for a terminal: name a FILE, or pipe it on")
		}
		c, err := dialControl(cmd)
		if err != nil {
			return err
		}
		resp, err := c.Stream(cmd.Context(), control.BackupPath, control.BackupRequest{WithoutCA: *without})
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
		path = filepath.Join(path, filepath.Base(resp.Header.Get(control.BackupNameHeader)))
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return nil, control.Fail(control.Invalid, "choose another FILE", err)
	}
	m, err := writeBackup(cmd, resp.Body, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // a partial backup is worth nothing
		return nil, err
	}
	return newBackupReply(path, m), atomicfile.SyncDir(filepath.Dir(path))
}

func newBackupReply(file string, m *archive.Manifest) *backupReply {
	return &backupReply{
		File: file, Node: m.Node, Site: m.Site, Created: m.Created, Files: len(m.Files), Bytes: m.Bytes(),
		CAKeys: m.CA && !m.WithoutCA,
	}
}

// writeBackup copies a backup to w and checks it on the way.
func writeBackup(cmd *cobra.Command, from io.Reader, w io.Writer) (*archive.Manifest, error) {
	seen := newProgress(cmd.ErrOrStderr(), "backup")
	defer seen.end()
	m, err := archive.Read(io.TeeReader(from, io.MultiWriter(w, seen)), nil)
	if err != nil {
		return nil, &control.Error{
			Code: control.Failed, Err: fmt.Errorf("the backup is not whole: %w", err),
			Hint: "the node's log may say why; an older file of that name is as it was",
		}
	}
	return m, nil
}

// progress counts the bytes written to it, and shows the count on a terminal.
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
