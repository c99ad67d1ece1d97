package integration

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// command prepares a program on h. Programs of this project are named alone.
func (h *host) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	if own := filepath.Join(bin, program); strings.HasPrefix(program, "hpmq") {
		program = own
	}
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.ns, program}, args...)...)
	cmd.Dir = h.home
	cmd.Env = append(os.Environ(), "HOME="+h.home, "XDG_RUNTIME_DIR="+h.home, "XDG_STATE_HOME="+h.home)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// result is what a finished program printed and answered.
type result struct {
	stdout, stderr string
	code           int
}

// try runs a program to its end.
func (h *host) try(t *testing.T, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := h.command(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %s %v: %v", h.name, program, args, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// run is try for programs that must succeed; it returns standard output.
func (h *host) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	r := h.try(t, program, args...)
	if r.code != 0 {
		t.Fatalf("%s: %s %s: exit code %d\n%s%s", h.name, program, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// process is a program that goes on running.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced when a line arrives
}

// start runs a program until the test ends. Its output lines can be waited for.
func (h *host) start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	p := &process{
		t: t, name: h.name + " " + program, done: make(chan struct{}), more: make(chan struct{}),
		cmd: h.command(context.WithoutCancel(t.Context()), program, args...),
	}
	out, in := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = in, in
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended shows in what it printed
		in.Close()
	}()
	go p.read(out)
	t.Cleanup(p.stop)
	return p
}

func (p *process) read(out io.Reader) {
	defer close(p.done)
	data := make([]byte, 64<<10)
	var rest []byte
	for {
		n, err := out.Read(data)
		rest = append(rest, data[:n]...)
		p.mu.Lock()
		for {
			line, tail, ok := bytes.Cut(rest, []byte("\n"))
			if !ok {
				break
			}
			p.lines = append(p.lines, string(line))
			rest = tail
		}
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// stop asks the program to end and waits for it. The clients of mosquitto 2.0.11
// may hang themselves: their signal handler waits for a mutex which the code that
// it interrupted holds, in a write to the socket.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // not SIGINT, which shells make background jobs ignore
	stock := strings.Contains(p.name, " mosquitto_")
	patience := 15 * time.Second
	if stock {
		patience = 3 * time.Second
	}
	if !p.ended(patience) {
		p.kill()
		if !stock {
			p.t.Errorf("%s did not stop when asked", p.name)
		}
	}
	if p.t.Failed() {
		p.t.Logf("%s printed:\n%s", p.name, strings.Join(p.output(), "\n"))
	}
}

// kill ends the program as a power cut would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

func (p *process) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// waitLine waits until a line holds want.
func (p *process) waitLine(want string, timeout time.Duration) {
	p.t.Helper()
	p.wait(timeout, "a line with "+want, func(lines []string) bool {
		return slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, want) })
	})
}

// wait waits until the lines so far satisfy ok.
func (p *process) wait(timeout time.Duration, what string, ok func(lines []string) bool) {
	p.t.Helper()
	limit := time.After(timeout)
	for {
		p.mu.Lock()
		good, more := ok(p.lines), p.more
		p.mu.Unlock()
		if good {
			return
		}
		select {
		case <-more:
		case <-p.done:
			p.mu.Lock()
			good = ok(p.lines)
			p.mu.Unlock()
			if !good {
				p.t.Fatalf("%s ended before %s", p.name, what)
			}
			return
		case <-limit:
			p.t.Fatalf("%s: no %s within %s", p.name, what, timeout)
		}
	}
}

// ended reports whether the program has ended, waiting up to timeout.
func (p *process) ended(timeout time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(timeout):
		return false
	}
}

// promptness is how long clients waited who should wait for a second at most, twice
// or more. Now and then the machine itself stalls; a node that keeps them waiting
// does so each time.
type promptness struct{ waits []time.Duration }

func (p *promptness) add(d time.Duration) { p.waits = append(p.waits, d) }

func (p *promptness) check(t *testing.T) {
	t.Helper()
	slices.Sort(p.waits)
	n := len(p.waits)
	t.Logf("%d waits of at most %s", n, p.waits[n-1].Round(time.Millisecond))
	if stalls := 1 + n/20; p.waits[n-1-stalls] > time.Second {
		t.Errorf("more than %d clients waited for more than a second: %s", stalls, p.waits)
	}
}

// eventually asks again until ok, for conditions that nothing announces.
func eventually(t *testing.T, timeout time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > timeout {
			t.Fatalf("%s: not within %s", what, timeout)
		}
		<-tick.C
	}
	return time.Since(began)
}
