// Command hpmq is the HPMQ daemon and its operator's tool: "hpmq up" runs a
// node (certificate authority, broker, mesh), every other subcommand talks to
// a running node over the control socket in its data directory.
//
// Packages below it do the work: node is the daemon, node/control the API that
// the other commands ask. This one reads flags, prints answers and chooses exit
// codes.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/internal/exit"
	"github.com/hpmq/hpmq/node/control"
)

// version is set by the linker; see the Makefile.
var version = "0.1.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	understood := false // the command line; cobra's errors before that are about it
	root.PersistentPreRun = func(*cobra.Command, []string) { understood = true }
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exit.OK
	}
	if !understood {
		err = control.Fail(control.Invalid, "see "+root.CommandPath()+" --help", err)
	}
	return exit.Report(stderr, "hpmq", err, wantsJSON(cmd))
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "hpmq",
		Short: "Messages, edge functions and remote access under one identity and one policy",
		Example: `  hpmq up                                          run a node here: CA, broker, mesh
  hpmq enroll ticket --name pump-7 --role sensor   print a ticket for a device
  hpmq sub -t 'site/#'                             see what is published
  hpmq why pump-7 publish site/home/valve/set      ask the policy`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.PersistentFlags().String("data", "", "data `directory` of the node (default $HPMQ_DATA_DIR, else the node that runs here)")
	root.AddCommand(
		newUpCommand(), newStatusCommand(),
		newEnrollCommand(), newDeviceCommand(), newUserCommand(), newLoginCommand(), newPasswdCommand(), newSiteCommand(),
		newPolicyCommand(), newWhyCommand(), newFuncCommand(),
		newPubCommand(), newSubCommand(), newClientsCommand(), newKickCommand(), newForwardCommand(),
		newBenchCommand(), newBackupCommand(), newRestoreCommand(), newRetainedCommand(), newTopicsCommand(),
	)
	return root
}
