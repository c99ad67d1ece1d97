package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// MaxModule is the largest WebAssembly module that a node takes, in bytes.
const MaxModule = 32 << 20

// maxBody bounds a request: a module in base64, and some more.
const maxBody = MaxModule*4/3 + 64<<10

// None is the request or the reply of an endpoint that needs none.
type None struct{}

// Endpoint is one operation of the API, with a request Q and a reply A.
type Endpoint[Q, A any] struct {
	Method string
	Path   string // with parameters in braces, as net/http.ServeMux has them
}

// Handle registers the answer to the endpoint's requests. answer may be called
// by several requests at once.
func (e Endpoint[Q, A]) Handle(mux *http.ServeMux, answer func(*http.Request, Q) (*A, error)) {
	mux.HandleFunc(e.Method+" "+e.Path, func(w http.ResponseWriter, r *http.Request) {
		q, err := ReadRequest[Q](w, r)
		if err != nil {
			Refuse(w, err)
			return
		}
		a, err := answer(r, q)
		if err != nil {
			Refuse(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a) // the asker may have left
	})
}

// Ask sends q and returns the reply. params are the values of the parameters of
// the path, in their order.
func (e Endpoint[Q, A]) Ask(ctx context.Context, c *Client, q Q, params ...string) (*A, error) {
	resp, err := c.send(ctx, e.Method, fillPath(e.Path, params), q)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	a := new(A)
	if err := json.NewDecoder(resp.Body).Decode(a); err != nil {
		return nil, Fail(Unreachable, "ask again", fmt.Errorf("the node broke off: %w", err))
	}
	return a, nil
}

// List is an operation whose reply is a list of A, one JSON object per line.
type List[Q, A any] struct {
	Path string
}

// Handle registers the answer to the list's requests.
func (l List[Q, A]) Handle(mux *http.ServeMux, answer func(Q) (iter.Seq[A], error)) {
	mux.HandleFunc(http.MethodPost+" "+l.Path, func(w http.ResponseWriter, r *http.Request) {
		q, err := ReadRequest[Q](w, r)
		if err != nil {
			Refuse(w, err)
			return
		}
		entries, err := answer(q)
		if err != nil {
			Refuse(w, err)
			return
		}
		Unhurried(w)
		w.Header().Set("Content-Type", "application/x-ndjson")
		out := bufio.NewWriterSize(w, 64<<10)
		enc := json.NewEncoder(out)
		for entry := range entries {
			if enc.Encode(entry) != nil {
				return // the asker has left
			}
		}
		_ = out.Flush() // as above
	})
}

// Ask sends q and returns the entries as they come. An error ends them.
func (l List[Q, A]) Ask(ctx context.Context, c *Client, q Q) (iter.Seq2[A, error], error) {
	resp, err := c.send(ctx, http.MethodPost, l.Path, q)
	if err != nil {
		return nil, err
	}
	return func(yield func(A, error) bool) {
		defer resp.Body.Close()
		dec := json.NewDecoder(resp.Body)
		for {
			var a A
			err := dec.Decode(&a)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(a, Fail(Unreachable, "ask again", fmt.Errorf("the node broke off: %w", err)))
				return
			}
			if !yield(a, nil) {
				return
			}
		}
	}, nil
}

// ReadRequest decodes the request of r. Only a POST has one.
func ReadRequest[Q any](w http.ResponseWriter, r *http.Request) (Q, error) {
	var q Q
	if r.Method != http.MethodPost {
		return q, nil
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&q); err != nil {
		return q, Invalidf("malformed request: %v", err)
	}
	return q, nil
}

// Unhurried lifts the server's time limits from a reply that may take long: a
// large one, or one that a person pages through.
func Unhurried(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Time{})  // or the request ends
	_ = c.SetWriteDeadline(time.Time{}) // both are there on a socket
}

// fillPath puts params in place of the parameters of path.
func fillPath(path string, params []string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(path, "{")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		_, path, _ = strings.Cut(rest, "}")
		b.WriteString(url.PathEscape(params[0]))
		params = params[1:]
	}
}
