package main

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"hpmq-lite": main})
}

// leakChecked fails a test run that leaves goroutines.
type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	code := l.m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return code
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exitcode": exitcode,
			"waitfor":  waitfor,
			"enrolled": func(ts *testscript.TestScript, _ bool, args []string) {
				ca := testca.New(t, "lab.test")
				for _, name := range args {
					kind, name, _ := strings.Cut(name, ":")
					enrol(t, ca, ts.MkAbs(name), ca.ID(t, identity.Kind(kind), name), "127.0.0.1:1", nil)
				}
			},
		},
	})
}

// exitcode N ARGS… runs hpmq-lite and wants it to exit with N.
func exitcode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: exitcode N ARGS…")
	}
	got := "0"
	if err := ts.Exec("hpmq-lite", args[1:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("hpmq-lite: %v", err)
		}
		got = strconv.Itoa(exit.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// waitfor FILE waits until an agent has written FILE.
func waitfor(ts *testscript.TestScript, _ bool, args []string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s was not written", args[0])
		}
	}
}

// enrol fills dir as hpmq-enroll does. signer is the directory key that the ticket
// pinned.
func enrol(t *testing.T, ca *testca.CA, dir string, id identity.ID, node string, signer ed25519.PublicKey) *identity.Store {
	t.Helper()
	store, err := identity.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Save(ca.SVID(t, id), ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(&identity.Enrolment{ID: id, Site: "home", Signer: signer, Mesh: []string{node}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, identity.EnrolmentFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return store
}
