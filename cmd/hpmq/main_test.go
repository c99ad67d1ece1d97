package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hpmq/hpmq/identity"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hpmq": main})
}

// TestScript runs testdata/*.txtar, which read as a manual. Besides testscript's
// own commands there is "await [!] COMMAND…", which tries until it succeeds (or
// fails), and "await-status [!] TEXT", and so for clients and topics, which
// try until the answer has (or lacks) a text.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			// Short, because socket paths end at 107 bytes; private, because
			// nodes of the machine's user are none of the test's business.
			env.Setenv("XDG_RUNTIME_DIR", filepath.Join(env.WorkDir, "run"))
			env.Setenv("HOME", env.WorkDir)
			shift := freeShift(t)
			env.Setenv("PORTS", fmt.Sprintf("%+d", shift))
			env.Setenv("MQTT", strconv.Itoa(portPlain+shift))
			env.Setenv("PORTS2", fmt.Sprintf("%+d", freeShift(t)))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"await": await, "enroll-device": enrollDevice, "await-status": awaitOutput("status"), "await-clients": awaitOutput("clients"), "await-topics": awaitOutput("topics")},
	})
}

// enrollDevice is hpmq-enroll with the ticket in a file: "enroll-device TICKET DIR".
func enrollDevice(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: enroll-device TICKET DIR")
	}
	t, err := identity.ParseTicket(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ts.Check(enrolInto(ctx, t, ts.MkAbs(args[1]), nil))
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	want := true
	if len(args) > 0 && args[0] == "!" {
		want, args = false, args[1:]
	}
	if neg || len(args) == 0 {
		ts.Fatalf("usage: await [!] command [args]")
	}
	eventually(ts, func() bool { return (ts.Exec(args[0], args[1:]...) == nil) == want })
}

// awaitOutput makes a command that tries until hpmq's command has a text in its
// answer, or lacks it.
func awaitOutput(command string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 && (len(args) != 2 || args[0] != "!") {
			ts.Fatalf("usage: await-%s [!] text", command)
		}
		eventually(ts, func() bool {
			return ts.Exec("hpmq", command) == nil &&
				strings.Contains(ts.ReadFile("stdout"), args[len(args)-1]) == (len(args) == 1)
		})
	}
}

func eventually(ts *testscript.TestScript, ok func() bool) {
	limit := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(limit) {
			ts.Fatalf("not within 20 s")
		}
		<-tick.C
	}
}

// shifts hands out a shift of the ports to each script, below those that the
// kernel gives to clients: other tests may have thousands of these.
var shifts = struct {
	sync.Mutex
	last int
}{last: 4000 + os.Getpid()%10_000}

// freeShift returns a --ports shift whose ports are free at the moment.
func freeShift(t *testing.T) int {
	shifts.Lock()
	defer shifts.Unlock()
	for range 200 {
		shifts.last += 13
		if portsFree(shifts.last) {
			return shifts.last
		}
	}
	t.Fatal("no free ports")
	return 0
}

// The ports of a node, before --ports shifts them; see README.md.
const (
	portPlain   = 1883
	portTLS     = 8883
	portWeb     = 9001
	portQUIC    = 14567
	portOverlay = 7844
	portHTTP    = 8480
)

func portsFree(shift int) bool {
	for _, port := range []int{portPlain, portTLS, portWeb, portHTTP} {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port+shift))
		if err != nil {
			return false
		}
		l.Close()
	}
	for _, port := range []int{portOverlay, portQUIC} {
		c, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port+shift))
		if err != nil {
			return false
		}
		c.Close()
	}
	return true
}
