// Command hpmq-lite is the agent of one device: it connects the device to a node
// of its fabric, makes chosen ports reachable to those whom the policy allows,
// and keeps the device's certificate fresh.
//
// The identity comes from the directory that hpmq-enroll made. The agent
// decides alone who may reach what, by the rules that its node signed for it;
// it keeps them in that directory and refuses everybody until it has some.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/hpmq/hpmq/internal/exit"
	"github.com/hpmq/hpmq/node/control"
)

// version is set by the linker; see the Makefile.
var version = "0.1.0-dev"

const usage = `hpmq-lite makes ports of this device reachable through its HPMQ fabric.

Usage:
  hpmq-lite up --expose PORT[,PORT...] [--dir DIR] [--node HOST:PORT]
  hpmq-lite status [--dir DIR] [-o json]
  hpmq-lite version

DIR is what hpmq-enroll made: the current directory if it holds an identity,
else the only subdirectory that does. "hpmq-lite COMMAND --help" explains more.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := dispatch(ctx, args, stdout, stderr)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return exit.OK
	}
	return exit.Report(stderr, "hpmq-lite", err, false)
}

// usagef is a mistake on the command line.
func usagef(format string, args ...any) error {
	return &control.Error{Code: control.Invalid, Err: fmt.Errorf(format, args...), Hint: "see hpmq-lite --help"}
}

func dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return usagef("no command given")
	}
	switch name, args := args[0], args[1:]; name {
	case "up":
		return runUp(ctx, args, stdout, stderr)
	case "status":
		return runStatus(args, stdout)
	case "version", "--version", "-version":
		fmt.Fprintln(stdout, "hpmq-lite", version)
		return nil
	case "help", "--help", "-help", "-h":
		fmt.Fprint(stdout, usage)
		return nil
	default:
		return usagef("unknown command %q", name)
	}
}

// parse reads the flags of a command, which takes no other arguments. Help goes
// to stdout: it was asked for.
func parse(flags *flag.FlagSet, args []string, stdout io.Writer, text string) error {
	flags.SetOutput(io.Discard) // execute prints errors, once
	flags.Usage = func() {}
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, text, "\nFlags:\n")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return err
	}
	if err != nil {
		return &control.Error{Code: control.Invalid, Err: err, Hint: "see hpmq-lite " + flags.Name() + " --help"}
	}
	if flags.NArg() > 0 {
		return usagef("%s takes no argument %q", flags.Name(), flags.Arg(0))
	}
	return nil
}
