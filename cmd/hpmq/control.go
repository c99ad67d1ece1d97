package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// control is the client side of a node's control socket.
type control struct {
	dir  string
	http http.Client
}

// dialControl finds the node that cmd means and returns its control client.
func dialControl(cmd *cobra.Command) (*control, error) {
	dir, err := findDataDir(cmd)
	if err != nil {
		return nil, err
	}
	c := &control{dir: dir}
	c.http.Transport = &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dialSocket(dir) },
	}
	return c, nil
}

func (c *control) get(ctx context.Context, path string, answer any) error {
	return c.do(ctx, http.MethodGet, path, nil, answer)
}

func (c *control) post(ctx context.Context, path string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, path, bytes.NewReader(body), answer)
}

// controlError is what the control API answers instead of 2xx.
type controlError struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	Exit  int    `json:"exit"` // exit code for the command that asked
}

// stream asks a question whose answer is not JSON. The caller closes its body.
func (c *control) stream(ctx context.Context, path string, question any) (*http.Response, error) {
	body, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return resp, nil
}

func (c *control) do(ctx context.Context, method, path string, body io.Reader, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return refusal(resp)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

func (c *control) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if request, ok := errors.AsType[*url.Error](err); ok {
		err = request.Err
	}
	return &failure{
		code: exitReach,
		err:  fmt.Errorf("no node answers in %s: %w", c.dir, err),
		hint: "start it with: hpmq up --data " + c.dir,
	}
}

// refusal turns a control API answer other than 2xx into a failure.
func refusal(resp *http.Response) error {
	var e controlError
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&e); err != nil || e.Error == "" {
		return &failure{code: exitFailure, err: fmt.Errorf("the node answered %s", resp.Status)}
	}
	return &failure{code: max(e.Exit, exitFailure), err: errors.New(e.Error), hint: e.Hint}
}

// The control API's questions and answers. They are the stable form of -o json.

type statusReply struct {
	Node        string           `json:"node"`
	ID          string           `json:"id"`
	Site        string           `json:"site"`
	TrustDomain string           `json:"trust_domain"`
	Version     string           `json:"version"`
	PID         int              `json:"pid"`
	Started     time.Time        `json:"started"`
	Certificate time.Time        `json:"certificate_not_after"`
	CA          bool             `json:"ca"`
	Listeners   []listenerStatus `json:"listeners"`
	Broker      map[string]int64 `json:"broker"`
	Policy      policyStatus     `json:"policy"`
	Directory   directoryStatus  `json:"directory"`
	Nodes       []nodeRecords    `json:"nodes"` // the others, as far as they told this one
	Peers       []peerStatus     `json:"peers"`
	Links       []linkStatus     `json:"links"`
	Functions   []functionStatus `json:"functions"`
	Warnings    []string         `json:"warnings"`
}

type listenerStatus struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Note    string `json:"note"`
}

type policyStatus struct {
	Version uint64    `json:"version"`
	Since   time.Time `json:"since"`
	Grants  int       `json:"grants"`
	Tests   int       `json:"tests"`
	Error   string    `json:"error,omitempty"` // why the newest files are not in force
}

type directoryStatus struct {
	Records uint64    `json:"records"`
	Signed  time.Time `json:"head_signed"`
	Writer  bool      `json:"writer"`
}

type peerStatus struct {
	ID      string    `json:"id"`
	Remote  string    `json:"remote"`
	Since   time.Time `json:"since"`
	RTT     string    `json:"rtt"`
	Gossip  string    `json:"gossip,omitempty"` // serf's view: alive, failed, left
	Site    string    `json:"site,omitempty"`
	Streams int       `json:"streams"`
}

type linkStatus struct {
	Site     string    `json:"site"`
	Peer     string    `json:"peer"`  // the node that carries the link
	State    string    `json:"state"` // up, or down and why
	Since    time.Time `json:"since"`
	Heard    bool      `json:"heard"` // interest is known; else everything is kept
	Interest int       `json:"interest"`
	Queued   int       `json:"queued"`
	Sent     uint64    `json:"sent"`
	Received uint64    `json:"received"`
	Dropped  uint64    `json:"dropped"`
	Withheld uint64    `json:"withheld"` // what the site may not receive
	Missing  uint64    `json:"missing"`  // dropped over there, for us

	Nodes []nodeRecords `json:"nodes"`
}

type functionStatus struct {
	Name     string   `json:"name"`
	SHA256   string   `json:"sha256"`
	Size     int64    `json:"size"`
	Bindings []string `json:"bindings"`
	Calls    uint64   `json:"calls"`
	Errors   uint64   `json:"errors"`
	Loaded   bool     `json:"loaded"`
	Error    string   `json:"error,omitempty"`
}

type ticketRequest struct {
	Kind   string            `json:"kind"`
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Site   string            `json:"site,omitempty"`
	TTL    string            `json:"ttl"`
}

type ticketReply struct {
	Ticket   string            `json:"ticket"`
	ID       string            `json:"id"`
	Site     string            `json:"site"`
	Labels   map[string]string `json:"labels,omitempty"`
	NotAfter time.Time         `json:"not_after"`
	Addrs    []string          `json:"addrs"`
	Warning  string            `json:"warning,omitempty"`
}

type voidReply struct {
	recordedReply

	ID       string `json:"id"`
	Enrolled bool   `json:"enrolled"` // somebody holds a certificate of that name
}

type identityReply struct {
	ID         string            `json:"id"`
	Site       string            `json:"site"`
	Labels     map[string]string `json:"labels,omitempty"`
	State      string            `json:"state"`
	Generation uint64            `json:"generation"`
	NotAfter   time.Time         `json:"not_after"`
	Sessions   int               `json:"sessions"` // MQTT sessions on this node
	Agent      bool              `json:"agent"`    // an agent is connected to this node
}

type revokeRequest struct {
	Reason        string `json:"reason"`
	ClearRetained bool   `json:"clear_retained"`
}

type removeSiteReply struct {
	recordedReply

	Site  string   `json:"site"`
	Nodes []string `json:"nodes"`           // that were ended
	Left  int      `json:"identities_left"` // that have their home there and stay
}

type revokeReply struct {
	recordedReply

	ID         string    `json:"id"`
	Generation uint64    `json:"generation"`
	NotAfter   time.Time `json:"certificate_not_after"` // of its last certificate: nothing takes it after that
}

type replaceReply struct {
	recordedReply
	identityReply
}

type whyRequest struct {
	Who    string `json:"who"`
	Action string `json:"action"`
	Object string `json:"object"`
}

type functionRequest struct {
	Name   string `json:"name"`
	Module []byte `json:"module"`
}
