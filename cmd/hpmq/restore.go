package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/internal/archive"
	"github.com/hpmq/hpmq/node"
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
		m, err := node.Restore(io.TeeReader(in, seen), dir, *ca)
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

func printRestored(w io.Writer, r *backupReply, m *archive.Manifest) {
	fmt.Fprintf(w, "%s: %d files, %s, of node %s at site %s as of %s\n",
		r.Data, r.Files, binarySize(r.Bytes), r.Node, r.Site, r.Created.Format("2006-01-02 15:04:05 UTC"))
	fmt.Fprintf(w, "next:  hpmq up --data %s      with the --ports and --advertise of before; never beside the old node\n", r.Data)
	if m.CA {
		fmt.Fprintln(w, "then:  revoke again whom you revoked since (hpmq device revoke), and enrol again who was new")
	}
}
