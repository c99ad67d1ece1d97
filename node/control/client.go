package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// SocketName is the name of the API's socket in a data directory.
const SocketName = "hpmq.sock"

// Client asks the node of one data directory. Several goroutines may use it.
type Client struct {
	dir  string
	http http.Client
}

// NewClient returns a client for the node of the data directory dir. It connects
// when it asks.
func NewClient(dir string) *Client {
	c := &Client{dir: dir}
	c.http.Transport = &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(dir) },
	}
	return c
}

// Dir is the node's data directory.
func (c *Client) Dir() string { return c.dir }

// Running reports whether a node answers for the data directory dir.
func Running(dir string) bool {
	conn, err := dial(dir)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Stream asks for a reply that is not JSON. The caller closes its body.
func (c *Client) Stream(ctx context.Context, path string, q any) (*http.Response, error) {
	return c.send(ctx, http.MethodPost, path, q)
}

// send asks a question. It returns a response with a 2xx status only; the caller
// closes its body.
func (c *Client) send(ctx context.Context, method, path string, q any) (*http.Response, error) {
	var body bytes.Buffer
	if method == http.MethodPost {
		if err := json.NewEncoder(&body).Encode(q); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, &body)
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

// Access asks the node for a byte stream to the agent of target, a short name such
// as pump-7. The stream carries TLS between the caller and the agent.
func (c *Client) Access(ctx context.Context, target string) (net.Conn, error) {
	conn, err := dial(c.dir)
	if err != nil {
		return nil, c.unreachable(err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.upgrade(ctx, conn, target); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *Client) upgrade(ctx context.Context, conn net.Conn, target string) error {
	u := "http://node" + fillPath(AccessPath, []string{target})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", AccessProtocol)
	if err := req.Write(conn); err != nil {
		return c.unreachable(err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 1024), req) // the node waits for the caller's TLS: nothing is read ahead
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return refusal(resp)
	}
	return nil
}

func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if request, ok := errors.AsType[*url.Error](err); ok {
		err = request.Err
	}
	return &Error{
		Code: Unreachable,
		Err:  fmt.Errorf("no node answers in %s: %w", c.dir, err),
		Hint: "start it with: hpmq up --data " + c.dir,
	}
}

// dialTimeout bounds a connection to a socket on this machine.
const dialTimeout = 2 * time.Second

func dial(dir string) (net.Conn, error) {
	path, closePath, err := SocketPath(dir, SocketName)
	if err != nil {
		return nil, err
	}
	defer closePath()
	return net.DialTimeout("unix", path, dialTimeout)
}

// SocketPath returns a path of the socket name in dir that fits in a sockaddr_un:
// the plain one, else one through an open directory. The caller calls done after
// it has bound or connected.
func SocketPath(dir, name string) (path string, done func(), err error) {
	const sunPathBytes = 107 // unix(7): 108 with the terminating zero
	path = filepath.Join(dir, name)
	if len(path) <= sunPathBytes {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name), func() { d.Close() }, nil
}
