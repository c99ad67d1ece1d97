package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// serve answers at dir's socket until the test ends.
func serve(t *testing.T, dir string, register func(*http.ServeMux)) {
	t.Helper()
	path, done, err := SocketPath(dir, SocketName)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	done()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	register(mux)
	s := &http.Server{Handler: mux}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-ended
	})
}

// TestErrors: a code, a hint and the whole text reach the client, whatever wrapped
// the error at the node.
func TestErrors(t *testing.T) {
	cause := &Error{Code: NotFound, Err: errors.New("no such thing"), Hint: "look elsewhere"}
	for name, c := range map[string]struct {
		err    error
		status int
		want   Error
	}{
		"with a code":   {cause, 404, Error{NotFound, errors.New("no such thing"), "look elsewhere"}},
		"wrapped":       {fmt.Errorf("ask: %w", cause), 404, Error{NotFound, errors.New("ask: no such thing"), "look elsewhere"}},
		"failed again":  {Fail(Denied, "another hint", fmt.Errorf("ask: %w", cause)), 404, Error{NotFound, errors.New("ask: no such thing"), "look elsewhere"}},
		"without":       {errors.New("broken"), 500, Error{Failed, errors.New("broken"), ""}},
		"invalid":       {Invalidf("size %d", 3), 400, Error{Invalid, errors.New("size 3"), ""}},
		"authority":     {&identity.APIError{Status: 409, Message: "taken", Hint: "another name"}, 409, Error{Conflict, errors.New("taken"), "another name"}},
		"authority 403": {&identity.APIError{Status: 403, Message: "no"}, 403, Error{Denied, errors.New("no"), ""}},
		"authority 401": {&identity.APIError{Status: 401, Message: "no"}, 403, Error{Denied, errors.New("no"), ""}},
		"authority 404": {&identity.APIError{Status: 404, Message: "no"}, 404, Error{NotFound, errors.New("no"), ""}},
		"authority 503": {&identity.APIError{Status: 503, Message: "no"}, 500, Error{Failed, errors.New("no"), ""}},
		"authority 502": {&identity.APIError{Status: 502, Message: "no"}, 500, Error{Failed, errors.New("no"), ""}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			e := Endpoint[None, None]{http.MethodPost, "/v1/x"}
			serve(t, dir, func(mux *http.ServeMux) {
				e.Handle(mux, func(*http.Request, None) (*None, error) { return nil, c.err })
			})
			_, err := e.Ask(t.Context(), NewClient(dir), None{})
			got, ok := errors.AsType[*Error](err)
			if !ok || got.Code != c.want.Code || got.Hint != c.want.Hint || got.Error() != c.want.Error() {
				t.Errorf("got %#v, want %#v", got, c.want)
			}
			if statuses[c.want.Code] != c.status && (c.want.Code != Failed || c.status != 500) {
				t.Errorf("status %d for %s, want %d", statuses[c.want.Code], c.want.Code, c.status)
			}
		})
	}
}

// TestEndpoint: parameters, request and reply arrive as they were sent.
func TestEndpoint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30)) // longer than a socket's name may be
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	e := Endpoint[RevokeRequest, Revoked]{http.MethodPost, "/v1/a/{id}/b/{other}/revoke"}
	serve(t, dir, func(mux *http.ServeMux) {
		e.Handle(mux, func(r *http.Request, q RevokeRequest) (*Revoked, error) {
			return &Revoked{ID: r.PathValue("id") + " " + r.PathValue("other") + " " + q.Reason}, nil
		})
	})
	a, err := e.Ask(t.Context(), NewClient(dir), RevokeRequest{Reason: "lost"}, "user:a/b", "c d")
	if err != nil || a.ID != "user:a/b c d lost" {
		t.Errorf("got %v, %v", a, err)
	}
	if !Running(dir) || Running(t.TempDir()) {
		t.Error("Running is wrong")
	}
}

// TestList: entries come one by one, and a list that breaks off ends with an error.
func TestList(t *testing.T) {
	dir := t.TempDir()
	whole, broken := List[FilterRequest, Filter]{"/v1/whole"}, List[FilterRequest, Filter]{"/v1/broken"}
	entries := []Filter{{"a", 1}, {"b", 2}, {"c", 3}}
	serve(t, dir, func(mux *http.ServeMux) {
		whole.Handle(mux, func(FilterRequest) (iter.Seq[Filter], error) { return slices.Values(entries), nil })
		mux.HandleFunc("POST /v1/broken", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"filter":"a","subscriptions":1}` + "\n" + `{"filt`))
		})
	})
	for l, want := range map[*List[FilterRequest, Filter]][]Filter{&whole: entries, &broken: entries[:1]} {
		var got []Filter
		var last error
		seq, err := l.Ask(t.Context(), NewClient(dir), FilterRequest{"#"})
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range seq {
			if last = err; err == nil {
				got = append(got, e)
			}
		}
		if !slices.Equal(got, want) || (last == nil) != (l == &whole) {
			t.Errorf("%s: got %v, %v", l.Path, got, last)
		}
	}
}

// TestBadRequests: a request that is too large or no JSON, and a node that is not
// there or talks of other things, are refused in words.
func TestBadRequests(t *testing.T) {
	dir := t.TempDir()
	e := Endpoint[TopicRequest, None]{http.MethodPost, "/v1/x"}
	serve(t, dir, func(mux *http.ServeMux) {
		e.Handle(mux, func(*http.Request, TopicRequest) (*None, error) { return &None{}, nil })
		mux.HandleFunc("POST /v1/html", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusTeapot) })
	})
	c := NewClient(dir)
	for name, ask := range map[string]func(context.Context) error{
		"malformed request": func(ctx context.Context) error {
			_, err := c.Stream(ctx, "/v1/x", "no object")
			return err
		},
		"too large": func(ctx context.Context) error {
			_, err := e.Ask(ctx, c, TopicRequest{strings.Repeat("x", maxBody)})
			return err
		},
		"the node answered 418": func(ctx context.Context) error {
			_, err := c.Stream(ctx, "/v1/html", None{})
			return err
		},
		"no node answers in": func(ctx context.Context) error {
			_, err := e.Ask(ctx, NewClient(t.TempDir()), TopicRequest{})
			return err
		},
	} {
		if err := ask(t.Context()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestErrorJSON fixes the form of an error under -o json.
func TestErrorJSON(t *testing.T) {
	text, err := json.Marshal(&Error{Code: Conflict, Err: errors.New("a"), Hint: "b"})
	if want := `{"error":"a","hint":"b","code":"conflict"}`; err != nil || string(text) != want {
		t.Errorf("got %s, %v, want %s", text, err, want)
	}
}

// A long answer outlives the server's limits of time.
func TestUnhurried(t *testing.T) {
	for name, lift := range map[string]bool{"lifted": true, "limited": false} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if lift {
					Unhurried(w)
				}
				select { // as long as a paging reader makes it wait
				case <-r.Context().Done():
				case <-time.After(400 * time.Millisecond):
				}
				_, _ = io.WriteString(w, "done")
			}))
			s.Config.ReadTimeout, s.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
			s.Start()
			defer s.Close()
			resp, err := s.Client().Post(s.URL, "application/json", strings.NewReader("{}"))
			if err == nil {
				defer resp.Body.Close()
				_, err = io.ReadAll(resp.Body)
			}
			if (err == nil) != lift {
				t.Errorf("got %v", err)
			}
		})
	}
}
