package policy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	onlyA = `grant "a" {
  to = ["*"]
  topics { publish = ["a"] }
}
`
	onlyB = `grant "b" {
  to = ["*"]
  topics { publish = ["b"] }
}
`
)

func TestLive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policy")
	write := func(name, text string) {
		t.Helper()
		// As an editor does: a new file over the old one.
		if err := os.WriteFile(filepath.Join(dir, "."+name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "."+name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	changed, rejected := make(chan struct{}, 10), make(chan Diagnostics, 10)
	l := NewLive(LiveOptions{
		Dir: dir, TrustDomain: "lab.test",
		OnChange: func() { changed <- struct{}{} },
		OnReject: func(d Diagnostics) { rejected <- d },
	})
	may := func(topic string) bool {
		return l.Set().Session(subject(t, "device:x")).Publish(topic, 0, false, 0).Allowed
	}
	if may("a") {
		t.Error("a new Live allows something")
	}
	if _, err := l.Reload(); err == nil || !strings.Contains(err.Error(), "no *.hcl file") {
		t.Errorf("an empty directory: %v", err)
	}
	write("main.hcl", onlyA)
	if _, err := l.Reload(); err != nil {
		t.Fatal(err)
	}
	<-changed
	if _, err := l.Reload(); err != nil || len(changed) != 0 {
		t.Errorf("the same files again: %v, %d changes", err, len(changed))
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()

	write("main.hcl", onlyB)
	<-changed
	if may("a") || !may("b") {
		t.Error("the change is not in force")
	}

	write("main.hcl", onlyB+"grnt")
	if d := <-rejected; len(d) != 1 || d[0].File != filepath.Join(dir, "main.hcl") || d[0].Line != 5 {
		t.Errorf("rejected with %v", d)
	}
	if !may("b") {
		t.Error("a bad file changed the policy")
	}
	write("notes.txt", "touches the directory, says nothing new")
	write("more.hcl", "test \"t\" {\n  as = { id = \"device:x\" }\n  allow = [\"publish a\"]\n}\n")
	write("main.hcl", onlyB)
	if d := <-rejected; len(d) != 1 || !strings.HasSuffix(d[0].File, "more.hcl") || d[0].Line != 3 {
		t.Errorf("rejected with %v", d)
	}
	write("main.hcl", onlyA)
	<-changed
	if d := <-rejected; !may("a") || len(d) != 0 {
		t.Errorf("not in force, or rejected again: %v", d)
	}

	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestLiveApply(t *testing.T) {
	n := 0
	l := NewLive(LiveOptions{TrustDomain: "lab.test", OnChange: func() { n++ }})
	if _, err := l.Apply(map[string][]byte{"main.hcl": []byte(onlyA)}); err != nil || n != 1 {
		t.Fatalf("%v, %d changes", err, n)
	}
	if _, err := l.Apply(map[string][]byte{"main.hcl": []byte("trust_domain = \"other.test\"")}); err == nil || n != 1 {
		t.Errorf("a foreign policy: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Error(err)
	}
	if l.Set().Hash() != HashFiles(map[string][]byte{"main.hcl": []byte(onlyA)}) {
		t.Error("Hash is not that of the files")
	}
	if got := string(l.Set().Files()["main.hcl"]); got != onlyA {
		t.Errorf("Files: %q", got)
	}
}

// TestLiveRecordsFirst: a policy that cannot be recorded is not in force, and Run
// goes on trying.
func TestLiveRecordsFirst(t *testing.T) {
	dir := t.TempDir()
	save := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "main.hcl"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var l *Live
	var full atomic.Bool
	changed, rejected := make(chan struct{}, 10), make(chan Diagnostics, 10)
	inForce := func(text string) bool { return string(l.Set().Files()["main.hcl"]) == text }
	l = NewLive(LiveOptions{
		Dir: dir, TrustDomain: "lab.test",
		Record: func(files map[string][]byte) error {
			if inForce(string(files["main.hcl"])) {
				t.Error("in force before it is recorded")
			}
			if full.Load() {
				return errors.New("no space left on device")
			}
			return nil
		},
		OnChange: func() { changed <- struct{}{} },
		OnReject: func(d Diagnostics) { rejected <- d },
	})
	save(onlyA)
	if _, err := l.Reload(); err != nil || !inForce(onlyA) {
		t.Fatal(err)
	}
	<-changed
	full.Store(true)
	save(onlyB)
	if found, err := l.Reload(); err == nil || !strings.Contains(found.Error(), "no space left") || !inForce(onlyA) {
		t.Errorf("in force without a record: %v", err)
	}
	save(onlyA) // the policy in force takes the other's place
	if _, err := l.Reload(); err != nil || l.waits() {
		t.Errorf("the policy in force: %v", err)
	}
	save(onlyB)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	if d := <-rejected; !strings.Contains(d.Error(), "cannot be recorded: no space left") {
		t.Errorf("rejected with %v", d)
	}
	full.Store(false)
	<-changed
	if d := <-rejected; len(d) > 0 || !inForce(onlyB) {
		t.Errorf("not in force, or still rejected: %v", d)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
