package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/node/control"
)

// outputFormat is the value of -o: JSON, or a form for people.
type outputFormat struct{ human, chosen string }

// String implements [pflag.Value].
func (f *outputFormat) String() string { return f.chosen }

// Type implements [pflag.Value].
func (f *outputFormat) Type() string { return "string" }

// Set implements [pflag.Value].
func (f *outputFormat) Set(s string) error {
	if s != f.human && s != "json" {
		return fmt.Errorf("want %s or json", f.human)
	}
	f.chosen = s
	return nil
}

// addOutputFlag gives cmd the -o flag that every command with an answer has.
func addOutputFlag(cmd *cobra.Command) { addFormatFlag(cmd, "table") }

// addFormatFlag gives cmd a -o flag with the default human.
func addFormatFlag(cmd *cobra.Command, human string) {
	cmd.Flags().VarP(&outputFormat{human, human}, "output", "o", "output `format`: "+human+" or json")
}

// wantsJSON reports whether -o json was given.
func wantsJSON(cmd *cobra.Command) bool {
	format, err := cmd.Flags().GetString("output")
	return err == nil && format == "json"
}

// printAnswer writes v as JSON when -o json was given, else calls human.
func printAnswer(cmd *cobra.Command, v any, human func(w io.Writer)) error {
	if !wantsJSON(cmd) {
		human(cmd.OutOrStdout())
		return nil
	}
	enc := newEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printEntries writes all as JSON, one object per line, when -o json was given,
// else calls human.
func printEntries[A any](cmd *cobra.Command, all []A, human func(w io.Writer)) error {
	if !wantsJSON(cmd) {
		human(cmd.OutOrStdout())
		return nil
	}
	enc := newEncoder(cmd.OutOrStdout())
	for _, entry := range all {
		if err := enc.Encode(entry); err != nil {
			return err
		}
	}
	return nil
}

// tableBlock is the number of rows that are aligned with each other. A list may
// have a million: they are printed as they come.
const tableBlock = 1000

// printList asks the node for a list and prints the entries as they come: as
// JSON, one object per line, or as rows of a table.
func printList[Q, A any](cmd *cobra.Command, l control.List[Q, A], q Q, header []string, row func(A) []string) error {
	entries, err := askList(cmd, l, q)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
	asJSON, enc, table := wantsJSON(cmd), newEncoder(out), newTable(out)
	if !asJSON {
		fmt.Fprintln(table, strings.Join(header, "\t"))
	}
	rows := 0
	for entry, err := range entries {
		if err != nil {
			return errors.Join(table.Flush(), out.Flush(), err)
		}
		if asJSON {
			if err := enc.Encode(entry); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintln(table, strings.Join(row(entry), "\t"))
		if rows++; rows%tableBlock == 0 {
			table.Flush()
		}
	}
	return errors.Join(table.Flush(), out.Flush())
}

func newEncoder(w io.Writer) *json.Encoder {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc
}

func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// printTable writes rows under header in aligned columns.
func printTable(w io.Writer, header []string, rows [][]string) {
	t := newTable(w)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush()
}

// ago prints how long before now t was, in the largest whole unit.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := now.Sub(t)
	suffix := " ago"
	if d < 0 {
		d, suffix = -d, ""
	}
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd%s", int(d.Hours()/24), suffix)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh%s", int(d.Hours()), suffix)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm%s", int(d.Minutes()), suffix)
	}
	return fmt.Sprintf("%ds%s", int(d.Seconds()), suffix)
}

// plainText makes text from a client safe for a terminal: it is quoted when it has
// characters that do not print, among them those that a terminal would obey.
func plainText(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
