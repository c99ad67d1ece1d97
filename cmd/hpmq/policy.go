package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/exit"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/node"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/policy"
)

func newPolicyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Check and test policy files"}
	cmd.AddCommand(newPolicyCheckCommand(), newPolicyTestCommand())
	return cmd
}

// anyDomain compiles files for the trust domain that they name, or for any.
const anyDomain = ""

// readPolicy reads the directory given, for whichever trust domain it names, or
// that of the node that cmd means, for the node's.
func readPolicy(cmd *cobra.Command, args []string) (dir, domain string, files map[string][]byte, err error) {
	if len(args) == 1 {
		dir, domain = args[0], anyDomain
	} else {
		data, err := findDataDir(cmd)
		if err != nil {
			return "", "", nil, control.Fail(control.Invalid, "name the directory: hpmq policy check policy/", err)
		}
		dir = node.PolicyDir(data)
		if domain, err = node.TrustDomain(data); err != nil {
			return dir, "", nil, err
		}
	}
	if files, err = policy.ReadDir(dir); err != nil {
		return dir, "", nil, control.Fail(control.Invalid, "", err)
	}
	return dir, domain, files, nil
}

type checkReply struct {
	OK          bool               `json:"ok"`
	Rules       int                `json:"rules"`
	Tests       int                `json:"tests"`
	Diagnostics policy.Diagnostics `json:"diagnostics"`
}

func newPolicyCheckCommand() *cobra.Command {
	check := &cobra.Command{
		Use:     "check [DIR]",
		Short:   "Compile policy files and run their tests, without putting them in force",
		Example: "  hpmq policy check policy/",
		Args:    cobra.MaximumNArgs(1),
	}
	addOutputFlag(check)
	check.RunE = func(cmd *cobra.Command, args []string) error {
		dir, domain, files, err := readPolicy(cmd, args)
		if err != nil {
			return err
		}
		set, found := policy.Check(files, domain)
		if set != nil {
			found = append(found, set.LintReserved(builtInRefusal)...)
		}
		if err := directory.CheckPolicySize(files); err != nil {
			set, found = nil, append(found, policy.Diagnostic{Severity: policy.SeverityError, Summary: err.Error()})
		}
		found = found.In(dir)
		a := checkReply{OK: set != nil, Diagnostics: found}
		if set != nil {
			a.Rules, a.Tests = set.Len(), len(set.RunTests())
		}
		if a.Diagnostics == nil {
			a.Diagnostics = policy.Diagnostics{}
		}
		err = printAnswer(cmd, a, func(w io.Writer) {
			for _, d := range found {
				fmt.Fprintln(w, d)
			}
			if a.OK {
				fmt.Fprintf(w, "%s: ok, %d rules, %d tests pass\n", dir, a.Rules, a.Tests)
			}
		})
		if err == nil && !a.OK {
			err = &control.Error{Code: control.Invalid, Err: fmt.Errorf("%s cannot be put in force", dir)}
		}
		return err
	}
	return check
}

func newPolicyTestCommand() *cobra.Command {
	test := &cobra.Command{
		Use:     "test [DIR]",
		Short:   "Run the test blocks of policy files and print each line's outcome",
		Example: "  hpmq policy test policy/\n  hpmq policy test -o json",
		Args:    cobra.MaximumNArgs(1),
	}
	addOutputFlag(test)
	test.RunE = func(cmd *cobra.Command, args []string) error {
		dir, domain, files, err := readPolicy(cmd, args)
		if err != nil {
			return err
		}
		set, found := policy.Load(files, domain)
		if err := found.In(dir).Err(); err != nil {
			return control.Fail(control.Invalid, "", err)
		}
		results := set.RunTests()
		failed := 0
		for _, r := range results {
			if !r.Passed() {
				failed++
			}
		}
		err = printEntries(cmd, results, func(w io.Writer) {
			for _, r := range results {
				outcome := "ok  "
				if !r.Passed() {
					outcome = "FAIL"
				}
				fmt.Fprintf(w, "%s  %s:%d  %s: %s (%s)\n", outcome, r.File, r.Line, r.Test, r.Case, r.Reason)
			}
			fmt.Fprintf(w, "%d passed, %d failed\n", len(results)-failed, failed)
		})
		if err == nil && failed > 0 {
			err = &control.Error{Code: control.Failed, Err: errors.New("policy tests fail")}
		}
		return err
	}
	return test
}

func newWhyCommand() *cobra.Command {
	why := &cobra.Command{
		Use:   "why WHO ACTION OBJECT",
		Short: "Ask the policy in force, and learn which line decides",
		Long: `Ask the policy in force, and learn which line decides.
ACTION is publish, subscribe, will, retain, receive or connect. The exit code is
0 when it is allowed and 4 when it is denied.`,
		Example: `  hpmq why pump-7 publish site/home/valve/set
  hpmq why pump-7 subscribe 'site/home/pump-7/cmd/#'
  hpmq why user:anna connect pump-7:8080
  hpmq why site:lyon receive site/home/pump-7/cmd/open`,
		Args: cobra.ExactArgs(3),
	}
	addOutputFlag(why)
	why.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := askNode(cmd, node.Why, control.WhyRequest{Who: args[0], Action: args[1], Object: args[2]})
		if err != nil {
			return err
		}
		if err := printAnswer(cmd, e, func(w io.Writer) { fmt.Fprint(w, e) }); err != nil {
			return err
		}
		if !e.Allowed {
			return exit.Status(exit.Denied)
		}
		return nil
	}
	return why
}

// builtInRefusal says why the broker lets no policy give action on object, or "".
func builtInRefusal(action, object string) string {
	if v, reserved := mqtt.Reserved(action, object); reserved && !v.Allowed {
		return v.Reason
	}
	return ""
}
