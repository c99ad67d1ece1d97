package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// addOutputFlag gives cmd the -o flag that every command with an answer has.
func addOutputFlag(cmd *cobra.Command) {
	cmd.Flags().StringP("output", "o", "table", "output `format`: table or json")
}

// printAnswer writes v as JSON when -o json was given, else calls human.
func printAnswer(cmd *cobra.Command, v any, human func(w io.Writer)) error {
	switch format, _ := cmd.Flags().GetString("output"); format {
	case "json":
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	case "table", "":
		human(cmd.OutOrStdout())
		return nil
	default:
		return usagef("output format %q: want table or json", format)
	}
}

// printTable writes rows under header in aligned columns.
func printTable(w io.Writer, header []string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
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
