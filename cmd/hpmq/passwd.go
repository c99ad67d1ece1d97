package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hpmq/hpmq/identity/password"
	"github.com/hpmq/hpmq/node/control"
)

func newPasswdCommand() *cobra.Command {
	passwd := &cobra.Command{
		Use:   "passwd NAME",
		Short: "Set the password of a device or service that has no certificate",
		Long: `Set the password of a device or service that has no certificate.
The name becomes an identity, unless it is one: policy decides what it may do,
hpmq device revoke ends it. The client gives the name as its MQTT user name, over
TLS, WebSocket or on this machine, and to this node: each node has its own
passwords. Asked for twice on a terminal, else one line of standard input.`,
		Example: `  hpmq passwd meter-3 --role sensor
  hpmq passwd service:dashboard < password.txt
  hpmq passwd meter-3 --delete
  hpmq passwd --list`,
		Args: cobra.MaximumNArgs(1),
	}
	addOutputFlag(passwd)
	passwd.Flags().StringArray("label", nil, "directory label `KEY=VALUE` of a new identity, may be repeated")
	role := passwd.Flags().String("role", "", "short for --label role=`ROLE`")
	site := passwd.Flags().String("site", "", "home `site` of a new identity (default: this node's)")
	list := passwd.Flags().Bool("list", false, "list the names that have a password")
	remove := passwd.Flags().Bool("delete", false, "take the password away and end the connections")
	passwd.RunE = func(cmd *cobra.Command, args []string) error {
		if *list {
			if *remove || len(args) > 0 {
				return control.Invalidf("--list goes alone")
			}
			return listPasswords(cmd)
		}
		if len(args) == 0 {
			return control.Invalidf("whose password? hpmq passwd NAME, or --list")
		}
		if *remove {
			return postPassword(cmd, control.DeletePassword, control.None{}, args[0], "deleted the password of %s\n")
		}
		q := control.PasswordRequest{Site: *site}
		var err error
		if q.Labels, err = labelFlags(cmd); err != nil {
			return err
		}
		if *role != "" {
			q.Labels["role"] = *role
		}
		if _, err := findDataDir(cmd); err != nil { // before asking
			return err
		}
		if q.Password, err = readPassword(cmd.InOrStdin(), cmd.ErrOrStderr()); err != nil {
			return err
		}
		return postPassword(cmd, control.SetPassword, q, args[0], "set the password of %s\n")
	}
	return passwd
}

func postPassword[Q any](cmd *cobra.Command, e control.Endpoint[Q, control.Password], q Q, name, done string) error {
	a, err := askNode(cmd, e, q, name)
	if err != nil {
		return err
	}
	return printAnswer(cmd, a, func(w io.Writer) { fmt.Fprintf(w, done, a.ID) })
}

func listPasswords(cmd *cobra.Command) error {
	now := time.Now()
	columns := []string{"IDENTITY", "PASSWORD SET", "STATE"}
	return printList(cmd, control.ListPasswords, control.None{}, columns, func(p control.Password) []string {
		return []string{p.ID, ago(p.Set, now), p.State}
	})
}

// readPassword asks for a password twice without showing it, or takes the first
// line of an input that is no terminal.
func readPassword(in io.Reader, out io.Writer) ([]byte, error) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return readPasswordLine(in)
	}
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(out, prompt)
		defer fmt.Fprintln(out)
		return term.ReadPassword(int(f.Fd()))
	}
	first, err := ask("password: ")
	if err != nil {
		return nil, err
	}
	second, err := ask("once more: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, control.Invalidf("the two passwords differ; nothing was changed")
	}
	return first, checkPassword(first)
}

func readPasswordLine(in io.Reader) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(in, password.MaxBytes+2)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	return line, checkPassword(line)
}

func checkPassword(p []byte) error {
	if err := password.Check(p); err != nil {
		return control.Fail(control.Invalid, "", err)
	}
	return nil
}
