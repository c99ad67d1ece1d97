package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	bin := flag.String("bin", "bin", "`directory` with hpmq, hpmq-enroll and mochi")
	document := flag.String("document", "docs/benchmarks.md", "`file` to write the tables into; empty: only print them")
	runs := flag.Int("runs", 3, "measurements of each row and broker; the median counts")
	only := flag.String("only", "", "measure only rows whose name contains this `text`")
	shift := flag.Int("ports", 2600, "shift of the brokers' ports")
	flag.Parse()
	dir, err := os.MkdirTemp("", "peers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	l := &lab{bin: programs, dir: dir, shift: *shift}
	if err := l.prepare(ctx); err != nil {
		return err
	}
	var chosen []row
	for _, r := range rows {
		if strings.Contains(r.name(), *only) {
			chosen = append(chosen, r)
		}
	}
	where := machine() // before we make it busy
	measured, err := l.measure(ctx, chosen, *runs)
	if err != nil {
		return err
	}
	text := l.report(measured, where, *runs)
	fmt.Print(text)
	if *document == "" {
		return nil
	}
	return insert(*document, text)
}
