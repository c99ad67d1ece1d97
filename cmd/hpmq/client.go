package main

import (
	"iter"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/node/control"
)

// dialControl returns a client of the node that cmd means.
func dialControl(cmd *cobra.Command) (*control.Client, error) {
	dir, err := findDataDir(cmd)
	if err != nil {
		return nil, err
	}
	return control.NewClient(dir), nil
}

// askNode sends q to the node that cmd means. params are the parameters of e's path.
func askNode[Q, A any](cmd *cobra.Command, e control.Endpoint[Q, A], q Q, params ...string) (*A, error) {
	c, err := dialControl(cmd)
	if err != nil {
		return nil, err
	}
	return e.Ask(cmd.Context(), c, q, params...)
}

// askList asks the node that cmd means for a list.
func askList[Q, A any](cmd *cobra.Command, l control.List[Q, A], q Q) (iter.Seq2[A, error], error) {
	c, err := dialControl(cmd)
	if err != nil {
		return nil, err
	}
	return l.Ask(cmd.Context(), c, q)
}
