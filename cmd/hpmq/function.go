package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/node/control"
)

func newFuncCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "func", Short: "Add and list WebAssembly functions"}
	cmd.AddCommand(newFuncAddCommand(), newFuncListCommand())
	return cmd
}

func newFuncAddCommand() *cobra.Command {
	add := &cobra.Command{
		Use:   "add NAME FILE.wasm",
		Short: "Give a module to the fabric, or a new version of it",
		Long: `Give a module to the fabric, or a new version of it.
It is checked, kept by its hash and fetched by every node. Which messages pass
through it says a binding in the policy; a version that is replaced finishes
the messages that it has.`,
		Example: `  GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o normalise.wasm .
  hpmq func add normalise normalise.wasm`,
		Args: cobra.ExactArgs(2),
	}
	addOutputFlag(add)
	add.RunE = func(cmd *cobra.Command, args []string) error {
		code, err := os.ReadFile(args[1])
		if err != nil {
			return control.Fail(control.Invalid, "", err)
		}
		f, err := askNode(cmd, control.AddFunction, control.FunctionRequest{Name: args[0], Module: code})
		if err != nil {
			return err
		}
		return printAnswer(cmd, f, func(w io.Writer) {
			fmt.Fprintf(w, "%s %.12s: %d bytes\n", f.Name, f.SHA256, f.Size)
			if f.Error != "" {
				fmt.Fprintf(w, "not loaded: %s\n", f.Error)
			}
			if len(f.Bindings) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "no message passes through it yet: add a binding and a grant for function:"+f.Name+" to the policy")
			}
		})
	}
	return add
}

func newFuncListCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List functions, their bindings and what they did here", Args: cobra.NoArgs}
	addOutputFlag(list)
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		columns := []string{"FUNCTION", "SHA256", "BINDINGS", "CALLS", "ERRORS", "STATE"}
		return printList(cmd, control.ListFunctions, control.None{}, columns, func(f control.Function) []string {
			state := "loaded"
			if f.Error != "" {
				state = f.Error
			}
			return []string{f.Name, f.SHA256[:12], strings.Join(f.Bindings, ","), fmt.Sprint(f.Calls), fmt.Sprint(f.Errors), state}
		})
	}
	return list
}
