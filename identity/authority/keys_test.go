package authority

import (
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
)

func TestKeysAreKept(t *testing.T) {
	l := newLab(t)
	dir := filepath.Join(l.path, "ca")
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
	root := l.Roots()[0]
	if got := root.NotAfter.Sub(l.clock()); got != rootLifetime {
		t.Errorf("root for %v", got)
	}
	s := l.enrol(t, "pump-7")
	l.restart(t)
	if !l.Roots()[0].Equal(root) {
		t.Error("another root after a restart")
	}
	if _, err := l.Bundle().Verify(s.Chain, l.clock(), x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
}

func TestOpenKeysRefusesHalfADirectory(t *testing.T) {
	for _, missing := range []string{rootFile, intermediateFile, signerFile} {
		l := newLab(t)
		dir := filepath.Join(l.path, "ca")
		if err := os.Remove(filepath.Join(dir, missing)); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKeys(dir, domain, nil); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("without %s: %v", missing, err)
		}
	}
	l := newLab(t)
	dir := filepath.Join(l.path, "ca")
	for _, name := range []string{rootFile, intermediateFile, signerFile} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"", "no PEM", strings.ToLower(string(text))} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenKeys(dir, domain, nil); err == nil {
				t.Errorf("%s holding %.10q: opened", name, bad)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInterruptedFirstRun has the leftovers of one that crashed before its end.
func TestInterruptedFirstRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	for _, d := range []string{dir, dir + ".new"} { // an empty directory, a half-filled one
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir+".new", rootFile), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeys(dir, domain, nil); err != nil {
		t.Error(err)
	}
}

func TestIntermediateIsRenewed(t *testing.T) {
	l := newLab(t)
	first := l.keys.issuer.cert
	l.pass(intermediateLifetime*2/3 - time.Hour)
	req := request(t, l.ticket(t, identity.Device, "pump-7"), csrFor(t, newDeviceKey(t), device("pump-7")))
	before, err := l.Enrol(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if !l.keys.issuer.cert.Equal(first) {
		t.Fatal("renewed too early")
	}
	l.pass(2 * time.Hour)
	s := l.enrol(t, "pump-8") // while it runs
	if l.keys.issuer.cert.Equal(first) {
		t.Fatal("not renewed")
	}
	if _, err := l.Bundle().Verify(s.Chain, l.clock(), x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	l.restart(t)
	again, err := l.Enrol(t.Context(), req)
	if err != nil || again.Certificate != before.Certificate {
		t.Errorf("a certificate of the earlier intermediate, asked again: %v", err)
	}
	l.pass(intermediateLifetime * 3 / 4) // and on opening
	l.restart(t)
	if left := l.keys.issuer.cert.NotAfter.Sub(l.clock()); left != intermediateLifetime {
		t.Errorf("%v left after a restart", left)
	}
}

func TestRootKeyMayBeAway(t *testing.T) {
	l := newLab(t)
	if err := os.Remove(filepath.Join(l.path, "ca", rootKeyFile)); err != nil {
		t.Fatal(err)
	}
	l.pass(intermediateLifetime - 24*time.Hour)
	l.restart(t)
	if e := l.hook.LastEntry(); e == nil || !strings.Contains(e.Message, "cannot be renewed") {
		t.Errorf("no warning: %v", e)
	}
	s := l.enrol(t, "pump-7")
	if !s.NotAfter().Equal(l.keys.issuer.cert.NotAfter) {
		t.Errorf("certificate until %v outlives its issuer", s.NotAfter())
	}
	l.pass(48 * time.Hour)
	_, err := l.Enrol(t.Context(), request(t, l.ticket(t, identity.Device, "pump-8"), csrFor(t, newDeviceKey(t), device("pump-8"))))
	if err == nil || asRefusal(err).Status != http.StatusServiceUnavailable {
		t.Errorf("issued under an expired intermediate: %v", err)
	}
	if _, err := OpenKeys(filepath.Join(l.path, "ca"), domain, l.clock); err == nil || !strings.Contains(err.Error(), "renew the intermediate") {
		t.Errorf("opened with an expired intermediate: %v", err)
	}
}

// TestClockThatJumped has the CA's clock run two years ahead for a while: what is
// issued after it was set right again is good, and so is what was issued before.
func TestClockThatJumped(t *testing.T) {
	l := newLab(t)
	before := l.enrol(t, "pump-7")
	const jump = 2 * 365 * 24 * time.Hour
	l.pass(jump)
	l.enrol(t, "pump-8")
	l.pass(-jump)
	after := l.enrol(t, "pump-9")
	answer, err := l.Renew(t.Context(), renewalOf(t, before, before.Key, "0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*identity.SVID{before, after, svid(t, answer, before.Key)} {
		if _, err := l.Bundle().Verify(s.Chain, l.clock(), x509.ExtKeyUsageClientAuth); err != nil {
			t.Error(err)
		}
	}
	l.restart(t)
	again, err := l.Renew(t.Context(), renewalOf(t, before, before.Key, "0123456789abcdef"))
	if err != nil || again.Certificate != answer.Certificate {
		t.Errorf("after a restart: %v", err)
	}
}

// TestRootKeyDamaged has a root key that cannot be read when the intermediate is
// due: it is used to its end, and said.
func TestRootKeyDamaged(t *testing.T) {
	l := newLab(t)
	if err := os.WriteFile(filepath.Join(l.path, "ca", rootKeyFile), []byte("scrambled"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.pass(intermediateLifetime * 3 / 4)
	l.restart(t)
	if e := l.hook.LastEntry(); e == nil || !strings.Contains(e.Message, "intermediate") {
		t.Errorf("not said: %v", e)
	}
	l.enrol(t, "pump-7")
	l.pass(intermediateLifetime)
	if _, err := l.keys.current(); err == nil {
		t.Error("an intermediate that has ended issues")
	}
}

// TestWrongClock: a machine without a battery begins in 1970.
func TestWrongClock(t *testing.T) {
	l := &lab{path: t.TempDir()}
	dir := filepath.Join(l.path, "ca")
	if _, err := OpenKeys(dir, domain, func() time.Time { return time.Unix(30, 0) }); !errors.Is(err, ErrClock) || !strings.Contains(err.Error(), "1970-01-01") {
		t.Errorf("a CA was made: %v", err)
	}
	l.time = time.Now().Truncate(time.Second) // the clock is right now
	l.start(t)
	t.Cleanup(func() { l.dir.Close() })
	right := l.clock()
	l.enrol(t, "pump-7")

	l.pass(time.Unix(30, 0).Sub(right))
	l.restart(t) // the site goes on
	text, key := l.ticket(t, identity.Device, "pump-8"), newDeviceKey(t)
	if _, err := l.Enrol(t.Context(), request(t, text, csrFor(t, key, device("pump-8")))); !errors.Is(err, ErrClock) {
		t.Errorf("enrolled in 1970: %v", err)
	}
	l.pass(right.Sub(l.clock()))
	if _, err := l.Enrol(t.Context(), request(t, l.ticket(t, identity.Device, "pump-8"), csrFor(t, key, device("pump-8")))); err != nil {
		t.Errorf("with the right clock: %v", err)
	}
}
