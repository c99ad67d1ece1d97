package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// Lists that may have a million entries go over the control socket, and out of
// -o json, as one JSON object per line, so that nobody holds them whole.

// handleLines registers a question whose answer is a list.
func handleLines[Q, A any](mux *http.ServeMux, pattern string, answer func(Q) (iter.Seq[A], error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody)).Decode(&q); err != nil {
			refuseControl(w, usagef("malformed request: %v", err))
			return
		}
		list, err := answer(q)
		if err != nil {
			refuseControl(w, err)
			return
		}
		unhurried(w)
		w.Header().Set("Content-Type", "application/x-ndjson")
		out := bufio.NewWriterSize(w, 64<<10)
		enc := json.NewEncoder(out)
		for line := range list {
			if enc.Encode(line) != nil {
				return // the asker has left
			}
		}
		_ = out.Flush() // as above
	})
}

// unhurried lifts the server's limits of time from an answer that may take long:
// a large one, or one that somebody pages through.
func unhurried(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Time{})  // or the request ends
	_ = c.SetWriteDeadline(time.Time{}) // both are there on a socket
}

// printLines asks for a list and prints each entry as it comes: as JSON, or by
// row under header.
func printLines[A any](cmd *cobra.Command, path string, question any, header string, row func(io.Writer, A)) error {
	format, _ := cmd.Flags().GetString("output")
	if format != "json" && format != "table" {
		return usagef("output format %q: want table or json", format)
	}
	c, err := dialControl(cmd)
	if err != nil {
		return err
	}
	resp, err := c.stream(cmd.Context(), path, question)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
	if format == "table" {
		fmt.Fprintln(out, header)
	}
	enc, dec := json.NewEncoder(out), json.NewDecoder(resp.Body)
	enc.SetEscapeHTML(false)
	for {
		var a A
		err := dec.Decode(&a)
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return errors.Join(out.Flush(), fail(exitReach, "ask again", fmt.Errorf("the node broke off: %w", err)))
		}
		if format == "table" {
			row(out, a)
		} else if err := enc.Encode(a); err != nil {
			return err
		}
	}
}

// plainText is what a client chose, fit for a terminal: quoted when it holds what
// a terminal would obey.
func plainText(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
