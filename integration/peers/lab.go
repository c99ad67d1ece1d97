package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// broker is one of the brokers that are compared.
type broker struct {
	name       string
	plain, tls int // ports, before the shift
	command    func(l *lab) []string
}

// brokers are those of the tables; the first is ours.
var brokers = [...]broker{
	{"hpmq", 1883, 8883, func(l *lab) []string {
		return []string{l.program("hpmq"), "up", "--data", l.path("node"), "--ports", fmt.Sprintf("%+d", l.shift), "--log", "warn"}
	}},
	{"mosquitto", 1884, 8884, func(l *lab) []string { return []string{mosquitto, "-c", l.path("mosquitto.conf")} }},
	{"mochi", 1885, 8885, func(l *lab) []string {
		return []string{
			l.program("mochi"), "-plain", l.address(1885), "-tls", l.address(8885),
			"-ca", l.node("ca.pem"), "-cert", l.node("cert.pem"), "-key", l.node("key.pem"),
		}
	}},
}

// mosquitto is where Debian puts it, which is not in everybody's path.
const mosquitto = "/usr/sbin/mosquitto"

// prefix is the topic that our policy lets everybody of the benchmark use.
const prefix = "demo/bench"

// lab is where the brokers run.
type lab struct {
	bin, dir string
	shift    int
}

func (l *lab) program(name string) string { return filepath.Join(l.bin, name) }
func (l *lab) path(name string) string    { return filepath.Join(l.dir, name) }
func (l *lab) node(name string) string    { return filepath.Join(l.dir, "node", "identity", name) }
func (l *lab) client(name string) string  { return filepath.Join(l.dir, "client", name) }
func (l *lab) address(port int) string    { return "127.0.0.1:" + strconv.Itoa(port+l.shift) }

// env keeps a node of the user's out of it.
func (l *lab) env() []string {
	return append(os.Environ(), "XDG_RUNTIME_DIR="+l.dir, "HPMQ_DATA_DIR="+l.path("node"))
}

// prepare makes a fabric with a policy of 1,000 grants and a device, and lets
// the peers use its certificates.
func (l *lab) prepare(ctx context.Context) error {
	if _, err := exec.LookPath(mosquitto); err != nil {
		return fmt.Errorf("%w: sudo apt-get install mosquitto, and stop the service that this starts", err)
	}
	p, err := l.start(ctx, brokers[0])
	if err != nil {
		return err
	}
	defer p.stop()
	ticket, err := l.output(ctx, l.program("hpmq"), "enroll", "ticket", "--name", "load", "--role", "bench")
	if err != nil {
		return err
	}
	if _, err := l.output(ctx, l.program("hpmq-enroll"), "--out", l.path("client"), strings.TrimSpace(ticket)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(l.path("node"), "policy", "bench.hcl"), []byte(policy()), 0o600); err != nil {
		return err
	}
	return os.WriteFile(l.path("mosquitto.conf"), []byte(l.mosquittoConfig()), 0o600)
}

// policy grants the device what it needs, and 999 other things to it and to 99
// groups of others, ten to each.
func policy() string {
	var b strings.Builder
	group := func(name string) string {
		fmt.Fprintf(&b, "group %q {\n  labels = { role = %q }\n}\n", name, name)
		return name
	}
	grant := func(name, group, topic string) {
		fmt.Fprintf(&b, "grant %q {\n  to = [\"group:%s\"]\n  topics {\n    publish   = [%q]\n    subscribe = [%q]\n  }\n}\n", name, group, topic, topic)
	}
	to := group("bench")
	grant("bench", to, prefix+"/#")
	for i := 1; i < 1000; i++ {
		if i%10 == 0 {
			to = group(fmt.Sprintf("line-%d", i/10))
		}
		grant(fmt.Sprintf("bench-%d", i), to, fmt.Sprintf("plant/line%d/+/telemetry/#", i))
	}
	return b.String()
}

func (l *lab) mosquittoConfig() string {
	lines := []string{
		"per_listener_settings false", "allow_anonymous true", "persistence false", "log_type error",
		"set_tcp_nodelay true", "max_queued_messages 0", "max_inflight_messages 0",
		"listener " + strconv.Itoa(1884+l.shift) + " 127.0.0.1",
		"listener " + strconv.Itoa(8884+l.shift) + " 127.0.0.1",
		"cafile " + l.node("ca.pem"), "certfile " + l.node("cert.pem"), "keyfile " + l.node("key.pem"),
		"require_certificate true", "use_identity_as_username true",
	}
	if os.Geteuid() == 0 {
		lines = append([]string{"user root"}, lines...) // so that it can read the key
	}
	return strings.Join(lines, "\n") + "\n"
}

func (l *lab) output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = l.env()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, stderr.String())
	}
	return string(out), nil
}

// process is a running broker.
type process struct{ cmd *exec.Cmd }

func (p process) pid() int { return p.cmd.Process.Pid }

// start runs b until it answers on both of its ports.
func (l *lab) start(ctx context.Context, b broker) (process, error) {
	for _, port := range []int{b.plain, b.tls} {
		c, err := net.Listen("tcp", l.address(port))
		if err != nil { // another program would be measured
			return process{}, fmt.Errorf("for %s: %w; choose other ports with -ports", b.name, err)
		}
		c.Close()
	}
	command := b.command(l)
	cmd := exec.Command(command[0], command[1:]...) // stop ends it, in its own way
	cmd.Env = l.env()
	log, err := os.Create(l.path(b.name + ".log"))
	if err != nil {
		return process{}, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return process{}, err
	}
	p := process{cmd}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, port := range []int{b.plain, b.tls} {
		if l.await(ctx, port) == nil {
			continue
		}
		p.stop()
		said, _ := os.ReadFile(log.Name())
		return process{}, fmt.Errorf("%s does not answer on %s: %s", b.name, l.address(port), said)
	}
	return p, nil
}

// await dials until something answers.
func (l *lab) await(ctx context.Context, port int) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", l.address(port))
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}

func (p process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	ended := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer ended.Stop()
	_ = p.cmd.Wait() // however it ended
}
