package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy/slice"
)

// status is what an agent does, as status.json keeps it.
type status struct {
	ID       identity.ID   `json:"id"`
	Site     string        `json:"site,omitempty"`
	Running  bool          `json:"running"`
	Expose   []uint16      `json:"expose"`
	Node     *nodeStatus   `json:"node"`      // null while not connected
	NotAfter time.Time     `json:"not_after"` // of the certificate
	Policy   *policyStatus `json:"policy"`    // null before the first: everybody is refused
	Flows    []access.Flow `json:"flows"`

	// Refused counts, by reason, the policies that nodes brought since the agent
	// started and that it did not take.
	Refused slice.RefusalCounts `json:"policies_refused,omitempty"`

	Allowed uint64    `json:"allowed"` // connections since the agent started
	Denied  uint64    `json:"denied"`
	Time    time.Time `json:"time"` // of this report
}

type nodeStatus struct {
	ID      identity.ID `json:"id"`
	Address string      `json:"address"`
	Since   time.Time   `json:"since"`
}

type policyStatus struct {
	Issued  time.Time `json:"issued"`
	Until   time.Time `json:"until"` // everybody is refused afterwards
	Rules   int       `json:"rules"`
	Nodes   int       `json:"nodes"`   // of the fabric
	Revoked int       `json:"revoked"` // nodes that the agent leaves alone
}

// statusPause keeps a busy agent from wearing out a flash disk.
const statusPause = time.Second

// report writes the status file when something has changed, and a last time when
// ctx is done.
type report struct {
	dir    string
	wake   wake.Token // one token; drained by run
	status func() status
	log    logrus.FieldLogger
}

func (r *report) changed() { r.wake.Wake() }

func (r *report) run(ctx context.Context) error {
	defer r.write(false)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		r.write(true)
		pause.Reset(statusPause)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
}

// write writes the file. Whether it can be written matters to nobody but its
// readers: a full disk stops no agent.
func (r *report) write(running bool) {
	s := r.status()
	if s.Running = running; !running {
		s.Node, s.Flows = nil, []access.Flow{}
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = atomicfile.Replace(filepath.Join(r.dir, statusFile), append(text, '\n'), 0o600)
	}
	if err != nil {
		r.log.WithField(logfield.File, statusFile).WithField(logfield.Reason, err.Error()).Warn("status not written")
	}
}

const statusText = `Usage: hpmq-lite status [--dir DIR] [-o json]

Prints what the agent of this device does: its node, its policy and the
connections that are open. Exits with 3 when no agent runs.
`

func runStatus(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("status", flag.ContinueOnError)
	named := flags.String("dir", "", "`directory` of the identity")
	format := flags.String("o", "table", "output `format`: table or json")
	if err := parse(flags, args, stdout, statusText); err != nil {
		return err
	}
	if *format != "table" && *format != "json" {
		return usagef("output format %q: want table or json", *format)
	}
	dir, err := identityDir(*named)
	if err != nil {
		return err
	}
	s, err := readStatus(dir)
	if err != nil {
		return err
	}
	if *format == "json" {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(s)
	} else {
		err = s.print(stdout)
	}
	if err == nil && !s.Running {
		return notRunning(dir)
	}
	return err
}

func notRunning(dir string) error {
	return &control.Error{Code: control.Unreachable, Err: fmt.Errorf("no agent runs for %s", dir), Hint: "start it: hpmq-lite up --expose PORT --dir " + dir}
}

// readStatus reads what an agent wrote; one that has crashed does not run,
// whatever it wrote last.
func readStatus(dir string) (*status, error) {
	text, err := os.ReadFile(filepath.Join(dir, statusFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notRunning(dir)
	}
	if err != nil {
		return nil, err
	}
	s := new(status)
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, statusFile), err)
	}
	if !running(dir) {
		s.Running, s.Node, s.Flows = false, nil, []access.Flow{}
	}
	return s, nil
}

func (s *status) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "identity\t%s\n", s.ID)
	fmt.Fprintf(t, "certificate\tuntil %s\n", s.NotAfter.Format(time.RFC3339))
	fmt.Fprintf(t, "exposed\t%s\n", portList(s.Expose))
	switch {
	case !s.Running:
		fmt.Fprintf(t, "node\tnot running\n")
	case s.Node == nil:
		fmt.Fprintf(t, "node\tnot connected\n")
	default:
		fmt.Fprintf(t, "node\t%s at %s since %s\n", s.Node.ID.Short(), s.Node.Address, s.Node.Since.Format(time.RFC3339))
	}
	switch p := s.Policy; {
	case p == nil:
		fmt.Fprintf(t, "policy\tnone yet: everybody is refused\n")
	case time.Now().After(p.Until):
		fmt.Fprintf(t, "policy\tended at %s: everybody is refused until a node sends a newer one\n", p.Until.Format(time.RFC3339))
	default:
		fmt.Fprintf(t, "policy\t%d rules of %s, good until %s\n", p.Rules, p.Issued.Format(time.RFC3339), p.Until.Format(time.RFC3339))
	}
	if len(s.Refused) > 0 {
		fmt.Fprintf(t, "refused\tpolicies of nodes: %s\n", s.Refused)
	}
	fmt.Fprintf(t, "connections\t%d open, %d allowed, %d denied\n", len(s.Flows), s.Allowed, s.Denied)
	for _, f := range s.Flows {
		fmt.Fprintf(t, "\t%s to %s/%d by %s since %s\n", f.Caller.Short(), f.Network, f.Port, f.Rule, f.Since.Format(time.RFC3339))
	}
	return t.Flush()
}

func portList(ports []uint16) string {
	var list []string
	for _, p := range ports {
		list = append(list, "tcp/"+strconv.Itoa(int(p)))
	}
	return strings.Join(list, ", ")
}
