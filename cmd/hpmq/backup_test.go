package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"github.com/hpmq/hpmq/internal/exit"
	"github.com/hpmq/hpmq/node"
)

// startNode runs a node in dir until stop is called.
func startNode(t *testing.T, dir string, shift int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n, err := node.New(ctx, node.Options{DataDir: dir, Shift: shift})
	if err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- n.Run(ctx, func() { close(ready) }) }() // stop waits for it
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		n.Close()
	})
}

// command runs one command line of hpmq and returns what it printed.
func command(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := execute(t.Context(), args, strings.NewReader(""), &out, &errs); code != want {
		t.Fatalf("hpmq %s: exit code %d, want %d\n%s", strings.Join(args, " "), code, want, errs.String())
	}
	return out.String(), errs.String()
}

// client connects to the plain listener; receive may be nil.
func client(t *testing.T, shift int, id string, clean bool, receive func(string)) *paho.Client {
	t.Helper()
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(portPlain+shift)))
	if err != nil {
		t.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{
		Conn: conn,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			if receive != nil {
				receive(string(p.Packet.Payload))
			}
			return true, nil
		}},
	})
	forever := uint32(1<<32 - 1)
	_, err = c.Connect(t.Context(), &paho.Connect{
		ClientID: id, KeepAlive: 60, CleanStart: clean, Properties: &paho.ConnectProperties{SessionExpiryInterval: &forever},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Every message that was acknowledged before a backup began is in it, while
// others are published, and a node that is restored from it delivers them.
func TestBackupUnderLoad(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	dir, restored, file := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b"), filepath.Join(t.TempDir(), "a.tar")
	shift := freeShift(t)
	stop := startNode(t, dir, shift)
	defer func() { stop() }()

	sub := client(t, shift, "away", true, nil)
	if _, err := sub.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "demo/#", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	if err := sub.Disconnect(&paho.Disconnect{}); err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex
	var acknowledged []string
	enough := make(chan struct{})
	done := make(chan struct{})
	var publishers sync.WaitGroup
	for p := range 4 {
		pub := client(t, shift, fmt.Sprintf("pub-%d", p), true, nil)
		publishers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					_ = pub.Disconnect(&paho.Disconnect{})
					return
				default:
				}
				text := fmt.Sprintf("%d-%d", p, i)
				if _, err := pub.Publish(context.WithoutCancel(t.Context()), &paho.Publish{Topic: "demo/x", QoS: 1, Payload: []byte(text)}); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if acknowledged = append(acknowledged, text); len(acknowledged) == 400 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	mu.Lock()
	before := slices.Clone(acknowledged)
	mu.Unlock()
	command(t, exit.OK, "backup", file, "--data", dir)
	command(t, exit.Conflict, "restore", file, "--data", dir) // it runs there
	close(done)
	publishers.Wait()
	stop()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	command(t, exit.OK, "restore", file, "--data", restored)
	stop = startNode(t, restored, shift)

	missing := map[string]bool{}
	for _, m := range before {
		missing[m] = true
	}
	all := make(chan struct{})
	client(t, shift, "away", false, func(text string) {
		mu.Lock()
		defer mu.Unlock()
		if had := len(missing); had > 0 {
			if delete(missing, text); len(missing) == 0 {
				close(all)
			}
		}
	})
	select {
	case <-all:
	case <-time.After(20 * time.Second):
		mu.Lock()
		defer mu.Unlock()
		t.Fatalf("%d of %d messages that were acknowledged before the backup are missing", len(missing), len(before))
	}
}

// backupOf returns a backup of a node that has run.
func backupOf(t *testing.T, args ...string) []byte {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	dir := filepath.Join(t.TempDir(), "node")
	shift := freeShift(t)
	stop := startNode(t, dir, shift)
	defer stop()
	out, _ := command(t, exit.OK, append([]string{"backup", "-", "--data", dir}, args...)...)
	return []byte(out)
}

// A damaged backup is refused with the name of the file, and nothing is left of
// the attempt.
func TestDamagedBackup(t *testing.T) {
	whole := backupOf(t)
	at := func(text string) int {
		i := bytes.LastIndex(whole, []byte(text))
		if i < 0 {
			t.Fatalf("no %q in the backup", text)
		}
		return i
	}
	flip := func(i int) []byte {
		b := bytes.Clone(whole)
		b[i] ^= 1
		return b
	}
	for name, tt := range map[string]struct {
		backup []byte
		says   string
	}{
		"policy":       {flip(at("version = 2")), "policy/main.hcl: its checksum differs"},
		"manifest":     {flip(at(`"trust_domain"`) + 30), "manifest.json: its checksum differs"},
		"cut short":    {whole[:at("version = 2")], "policy/main.hcl: it is cut short"},
		"without end":  {whole[:len(whole)-4096], "it is cut short"},
		"no backup":    {[]byte("hello"), "damaged at its beginning"},
		"empty":        {nil, "cut short"},
		"foreign file": {tarOf(t, "../../etc/passwd"), "no file of a data directory"},
	} {
		t.Run(name, func(t *testing.T) {
			file, dir := filepath.Join(t.TempDir(), "x.tar"), filepath.Join(t.TempDir(), "d")
			if err := os.WriteFile(file, tt.backup, 0o600); err != nil {
				t.Fatal(err)
			}
			_, said := command(t, exit.Failure, "restore", file, "--data", dir)
			if !strings.Contains(said, tt.says) {
				t.Errorf("says %q, want %q", said, tt.says)
			}
			left, _ := filepath.Glob(filepath.Join(dir, "*"))
			hidden, _ := filepath.Glob(filepath.Join(dir, ".*"))
			if left = append(left, hidden...); len(left) != 1 { // the lock
				t.Errorf("left %v", left)
			}
		})
	}
}

// Without the authority's keys a restore asks for them.
func TestBackupWithoutCA(t *testing.T) {
	backup := backupOf(t, "--without-ca")
	if bytes.Contains(backup, []byte("signer.key")) {
		t.Error("the signer's key is in it")
	}
	dir, ca := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "x.tar")
	for path, content := range map[string][]byte{file: backup, filepath.Join(ca, "root.key"): []byte("secret")} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, said := command(t, exit.Usage, "restore", file, "--data", filepath.Join(dir, "a"))
	if !strings.Contains(said, "--ca") {
		t.Errorf("says %q", said)
	}
	command(t, exit.OK, "restore", file, "--data", filepath.Join(dir, "b"), "--ca", ca)
	if got, err := os.ReadFile(filepath.Join(dir, "b", "ca", "root.key")); err != nil || string(got) != "secret" {
		t.Errorf("%q, %v", got, err)
	}
}

// tarOf is an archive with one empty file.
func tarOf(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Mode: 0o600}), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
