package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/node/control"
)

func newRestoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FILE|-",
		Short: "Put a backup into an empty data directory",
		Long: `Put a backup into an empty data directory. Every file is checked before the first
one is in its place; a damaged backup is refused and leaves the directory empty.

What happened after the backup was made is not in it. On a certificate authority
that includes enrolments and revocations: revoke again whom you revoked since. The
node that the backup was made of must never run again beside the restored one.`,
		Example: `  hpmq restore home.tar --data /var/lib/hpmq
  age -d home.tar.age | hpmq restore -
  hpmq restore home.tar --ca /mnt/safe/ca         made with --without-ca`,
		Args: cobra.ExactArgs(1),
	}
	addOutputFlag(cmd)
	ca := cmd.Flags().String("ca", "", "`directory` with the authority's keys, for a backup without them")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in := cmd.InOrStdin()
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return control.Fail(control.Invalid, "", err)
			}
			defer f.Close()
			in = f
		}
		dir := givenDataDir(cmd)
		if dir == "" {
			dir = defaultDataDir()
		}
		seen := newProgress(cmd.ErrOrStderr(), "restore")
		m, err := restore(io.TeeReader(in, seen), dir, *ca)
		seen.end()
		if err != nil {
			return err
		}
		reply := newBackupReply(args[0], m)
		reply.Data = dir
		return printAnswer(cmd, reply, func(w io.Writer) { printRestored(w, reply, m) })
	}
	return cmd
}

func printRestored(w io.Writer, r *backupReply, m *manifest) {
	fmt.Fprintf(w, "%s: %d files, %s, of node %s at site %s as of %s\n",
		r.Data, r.Files, binarySize(r.Bytes), r.Node, r.Site, r.Created.Format("2006-01-02 15:04:05 UTC"))
	fmt.Fprintf(w, "next:  hpmq up --data %s      with the --ports and --advertise of before; never beside the old node\n", r.Data)
	if m.CA {
		fmt.Fprintln(w, "then:  revoke again whom you revoked since (hpmq device revoke), and enrol again who was new")
	}
}

// restore puts the backup r into dir.
func restore(r io.Reader, dir, ca string) (*manifest, error) {
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
	m, err := readArchive(r, func(name string, perm fs.FileMode, body io.Reader) error {
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
func restoreCA(staged string, m *manifest, ca string) error {
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

// moveInto moves what is in staged up into dir. The settings come last: without
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
