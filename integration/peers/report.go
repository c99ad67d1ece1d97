package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

const (
	beginMark = "<!-- measured: make bench-broker writes from here -->"
	endMark   = "<!-- measured: to here -->"
)

// report is the Markdown between the marks.
func (l *lab) report(all []measured, where string, runs int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s on %s, with `make bench-broker`; median of %d runs, brokers in turn, each started afresh for each run.\n",
		time.Now().UTC().Format("2006-01-02 15:04 UTC"), where, runs)
	fmt.Fprintf(&b, "%s. The generator shares the processors with the broker.\n\n", strings.Join(l.versions(), "; "))
	b.WriteString("| | hpmq /s | mosquitto /s | mochi /s | hpmq | mosquitto | mochi | ÷ mosquitto | ÷ mochi | faults |\n")
	b.WriteString("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|\n")
	for _, m := range all {
		b.WriteString(m.line())
	}
	b.WriteString("\nDelays at a fixed rate in µs, p50 / p99 / p99.9, from when a message was due to its arrival:\n\n")
	b.WriteString("| | hpmq | mosquitto | mochi |\n|---|---:|---:|---:|\n")
	for _, m := range all {
		if !strings.HasPrefix(m.row.scenario, "steady") {
			continue
		}
		fmt.Fprintf(&b, "| %s |", m.row.title)
		for _, r := range m.results {
			fmt.Fprintf(&b, " %.0f / %.0f / %.0f |", r.Delay.P50, r.Delay.P99, r.Delay.P999)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// line is a row of the first table.
func (m measured) line() string {
	cells := []string{m.row.title}
	for _, r := range m.results {
		if r == nil || r.PerSecond == 0 {
			cells = append(cells, "–")
			continue
		}
		cells = append(cells, thousands(r.PerSecond))
	}
	for _, r := range m.results {
		switch {
		case r == nil || r.figure() == 0:
			cells = append(cells, "–")
		case r.MemoryPerConnection != 0:
			cells = append(cells, fmt.Sprintf("%.1f KiB", r.MemoryPerConnection/1024))
		case r.BrokerMicros < 10:
			cells = append(cells, fmt.Sprintf("%.2f µs", r.BrokerMicros))
		default:
			cells = append(cells, fmt.Sprintf("%.0f µs", r.BrokerMicros))
		}
	}
	ours := m.results[0]
	for _, peer := range m.results[1:] {
		if peer == nil || peer.figure() == 0 {
			cells = append(cells, "–")
			continue
		}
		cells = append(cells, fmt.Sprintf("%.2f", ours.figure()/peer.figure()))
	}
	return "| " + strings.Join(append(cells, m.faults()), " | ") + " |\n"
}

// faults names what was found wrong, in all runs.
func (m measured) faults() string {
	if m.row.oursOnly != "" {
		return "hpmq only: " + m.row.oursOnly
	}
	var found []string
	for i, r := range m.results {
		for _, f := range []struct {
			n    uint64
			what string
		}{{r.Lost, "lost"}, {r.Duplicated, "repeated"}, {r.Reordered, "reordered"}, {r.Corrupt, "corrupt"}, {r.Refused, "refused"}} {
			if f.n > 0 {
				found = append(found, fmt.Sprintf("%s: %d of %d %s", brokers[i].name, f.n, r.Delivered+r.Lost, f.what))
			}
		}
		if r.Error != "" {
			found = append(found, brokers[i].name+": "+strings.TrimSpace(strings.ReplaceAll(r.Error, "\n", " ")))
		}
	}
	if len(found) == 0 {
		return "none"
	}
	return strings.Join(found, "; ")
}

func thousands(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// machine describes where this runs, and how busy that is now.
func machine() string {
	model := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	busy, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("%d processors (%s), Linux %s, load average %s", runtime.NumCPU(), model, bytes.TrimSpace(kernel), busy)
}

func (l *lab) versions() []string {
	first := func(name string, args ...string) string {
		out, _ := exec.Command(name, args...).CombinedOutput() // mosquitto -h exits with 3
		line, _, _ := strings.Cut(string(out), "\n")
		return strings.TrimSpace(line)
	}
	return []string{first(l.program("hpmq"), "--version"), first(mosquitto, "-h"), first(l.program("mochi"), "-version")}
}

// insert replaces what is between the marks of a document.
func insert(document, text string) error {
	old, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, begun := strings.Cut(string(old), beginMark)
	_, after, ended := strings.Cut(rest, endMark)
	if !begun || !ended {
		return fmt.Errorf("%s has no place for the tables: want the lines %s and %s", document, beginMark, endMark)
	}
	return os.WriteFile(document, []byte(before+beginMark+"\n\n"+text+"\n"+endMark+after), 0o644)
}
