package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
)

// TestLinesEnd has standard input end in ways that are no end of file: what was
// not sent must not look as if it had been.
func TestLinesEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		in   io.Reader
		want int
		ok   bool
	}{
		"last line without end": {bytes.NewReader([]byte("a\nb")), 2, true},
		"line too long":         {io.MultiReader(bytes.NewReader([]byte("a\n")), bytes.NewReader(make([]byte, 17<<20))), 1, false},
		"read error":            {io.MultiReader(bytes.NewReader([]byte("a\n")), errReader{}), 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := &cobra.Command{}
			cmd.SetIn(tt.in)
			next, err := payloadSource{lines: true}.open(cmd)
			if err != nil {
				t.Fatal(err)
			}
			lines := 0
			for _, err = next(); err == nil; _, err = next() {
				lines++
			}
			if lines != tt.want || errors.Is(err, io.EOF) != tt.ok {
				t.Errorf("%d lines, then %v", lines, err)
			}
		})
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("input/output error") }

// TestRefusalIsPlain prints what a broker that may be anybody's gave as its reason.
func TestRefusalIsPlain(t *testing.T) {
	err := refusedByBroker("publish a", 0x80, "no\x1b[2J\nhpmq: all is well")
	if strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Errorf("%q", err)
	}
}
