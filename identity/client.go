package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ErrUnreachable is wrapped by errors of [Enrol] and [Renew] when no address
// gave an answer that could be trusted.
var ErrUnreachable = errors.New("cannot reach")

// Dialer opens the connections to the enrolment API; nil is a net.Dialer.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

const (
	dialTimeout    = 10 * time.Second
	requestTimeout = 30 * time.Second
	firstBackoff   = time.Second
	maxBackoff     = 5 * time.Minute
)

// untrustedError is a server that answers without being one of ours.
type untrustedError struct{ reason error }

func (e *untrustedError) Error() string { return e.reason.Error() }
func (e *untrustedError) Unwrap() error { return e.reason }

// apiClient speaks HTTP to one address of the enrolment API.
type apiClient struct {
	http  http.Client
	addr  string
	limit int // bytes of an answer
}

func newAPIClient(addr string, dial Dialer, cfg *tls.Config) *apiClient {
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	// Proxies of the environment are not asked: a site's node is near.
	return &apiClient{addr: addr, limit: MaxBodyBytes, http: http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			DialContext:         dial,
			TLSClientConfig:     cfg,
			TLSHandshakeTimeout: dialTimeout,
			DisableKeepAlives:   true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// apiTLS checks the server by verify instead of by host name and clock.
func apiTLS(verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"http/1.1"},
		InsecureSkipVerify: true, // replaced by VerifyConnection, or by the root's hash in a ticket
		VerifyConnection:   verify,
	}
}

// verifyServer accepts a node of the bundle's trust domain and ignores the local
// clock: a device without a battery wakes in 1970. The holder of an old certificate
// gains little: it can refuse or delay, but request and answer prove themselves.
func verifyServer(b *Bundle) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if b == nil {
			return errNoSVID
		}
		chain := state.PeerCertificates
		id, err := b.Verify(chain, WithinValidity(chain, time.Now()), x509.ExtKeyUsageServerAuth)
		if err == nil && id.Kind != Node {
			err = fmt.Errorf("%s answers, want a node", id)
		}
		if err != nil {
			return &untrustedError{err}
		}
		return nil
	}
}

// do sends one request and returns the answer's body, or an *APIError.
func (c *apiClient) do(ctx context.Context, method, path string, body any) ([]byte, *http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, nil, err
	}
	var send io.Reader
	if body != nil {
		send = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.addr+path, send)
	if err != nil {
		return nil, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, c.unreached(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, int64(c.limit)+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%w %s: %w", ErrUnreachable, c.addr, err)
	}
	if len(got) > c.limit {
		return nil, nil, fmt.Errorf("%s: answer of more than %d bytes", c.addr, c.limit)
	}
	if resp.StatusCode/100 != 2 {
		return nil, nil, newAPIError(resp, got)
	}
	return got, resp, nil
}

// unreached names the address once and tells a server that may not be trusted
// from one that may yet come back.
func (c *apiClient) unreached(err error) error {
	if untrusted, ok := errors.AsType[*untrustedError](err); ok {
		return fmt.Errorf("%s: %w", c.addr, untrusted)
	}
	if by, ok := errors.AsType[*url.Error](err); ok {
		err = by.Err // without method and URL
	}
	return fmt.Errorf("%w %s: %w", ErrUnreachable, c.addr, err)
}

func newAPIError(resp *http.Response, body []byte) *APIError {
	e := &APIError{Status: resp.StatusCode}
	if err := json.Unmarshal(body, e); err != nil {
		*e = APIError{Status: resp.StatusCode} // not our JSON: the status must do
	}
	e.date, _ = http.ParseTime(resp.Header.Get("Date"))
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.retryAfter = min(time.Duration(seconds)*time.Second, maxBackoff)
	}
	return e
}

// post sends a request that is answered with a certificate.
func (c *apiClient) post(ctx context.Context, path string, body any) (*EnrolResponse, error) {
	got, _, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return nil, err
	}
	answer := new(EnrolResponse)
	if err := json.Unmarshal(got, answer); err != nil {
		return nil, fmt.Errorf("%s: answer: %w", c.addr, err)
	}
	return answer, nil
}

// tryEach calls try with one address, or another way, after the other until one
// answers: with success, or with a refusal that no other would lift.
func tryEach[A, T any](addrs []A, try func(addr A) (T, error)) (T, error) {
	var zero T
	var all error
	for _, addr := range addrs {
		got, err := try(addr)
		switch {
		case err == nil || refused(err):
			return got, err
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return zero, all
}

// refused reports whether err is an authority's last word.
func refused(err error) bool {
	refusal, ok := errors.AsType[*APIError](err)
	return ok && !refusal.temporary()
}

// passing reports whether time may mend err: an address that does not answer or
// an authority that is overloaded.
func passing(err error) bool {
	if refusal, ok := errors.AsType[*APIError](err); ok {
		return refusal.temporary()
	}
	return errors.Is(err, ErrUnreachable)
}

// retry calls try until it succeeds or fails for good, waiting longer each time,
// at random up to the limit so that a fleet does not come back at once. It tells
// waiting about each wait. When ctx ends, or would end during the wait, it
// returns the last failure.
func retry[T any](ctx context.Context, limit time.Duration, waiting func(time.Duration, error), try func() (T, error)) (T, error) {
	for backoff := firstBackoff; ; backoff = max(min(2*backoff, limit), firstBackoff) {
		got, err := try()
		if err == nil || !passing(err) {
			return got, err
		}
		wait := rand.N(backoff)
		if refusal, ok := errors.AsType[*APIError](err); ok {
			wait += refusal.retryAfter
		}
		if end, ok := ctx.Deadline(); ok && time.Until(end) <= wait {
			return got, err
		}
		waiting(wait, err)
		if !sleep(ctx, wait) {
			return got, err
		}
	}
}

// sleep waits for d and reports whether it got there before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
