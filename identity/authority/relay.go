package authority

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// Relay is the [Backend] of a node without an authority: it passes requests on
// to one over the mesh. The requests prove themselves, so it needs no trust.
type Relay struct {
	// Open opens a stream to an authority that runs [Authority.ServeStream].
	Open func(context.Context) (io.ReadWriteCloser, error)

	// Bundle is the trust bundle of this node.
	Bundle func() *identity.Bundle
}

// question is what goes over a mesh stream, one per stream: a little-endian
// 32-bit length and JSON.
type question struct {
	Enrol    *identity.EnrolRequest `json:"enrol,omitempty"`
	Renew    *identity.RenewRequest `json:"renew,omitempty"`
	Announce *announcement          `json:"announce,omitempty"`
}

type announcement struct {
	Site  string   `json:"site"`
	Mesh  []string `json:"mesh,omitempty"`
	API   []string `json:"api,omitempty"`
	MQTT  []string `json:"mqtt,omitempty"`
	Roles []string `json:"roles,omitempty"`
}

// reply is what comes back, in the same form.
type reply struct {
	Status int                     `json:"status"`
	Answer *identity.EnrolResponse `json:"answer,omitempty"`
	Error  *identity.APIError      `json:"error,omitempty"`
}

// Roots returns this node's root certificates.
func (r *Relay) Roots() []*x509.Certificate { return r.Bundle().Roots() }

// Enrol passes an enrolment on.
func (r *Relay) Enrol(ctx context.Context, req *identity.EnrolRequest) (*identity.EnrolResponse, error) {
	return r.ask(ctx, &question{Enrol: req})
}

// Renew passes a renewal on. It is an [identity.Renewal].
func (r *Relay) Renew(ctx context.Context, req *identity.RenewRequest) (*identity.EnrolResponse, error) {
	return r.ask(ctx, &question{Renew: req})
}

// Announce tells the authority where this node is reached; see
// [Authority.Announce].
func (r *Relay) Announce(ctx context.Context, n directory.Node) error {
	_, err := r.ask(ctx, &question{Announce: &announcement{n.Site, n.Mesh, n.API, n.MQTT, n.Roles}})
	return err
}

func (r *Relay) ask(ctx context.Context, q *question) (*identity.EnrolResponse, error) {
	unreachable := refuse(http.StatusServiceUnavailable, "the nearest CA node is not reachable from here; it works again when the mesh does",
		"no CA can be reached now")
	s, err := r.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unreachable, err)
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := writeJSON(s, q); err != nil {
		return nil, fmt.Errorf("%w: %w", unreachable, err)
	}
	var got reply
	if err := readJSON(s, &got); err != nil {
		return nil, fmt.Errorf("%w: %w", unreachable, err)
	}
	switch {
	case got.Error != nil && got.Status >= 400 && got.Status <= 599:
		got.Error.Status = got.Status
		return nil, got.Error
	case got.Error == nil && got.Status == http.StatusOK && (got.Answer != nil || q.Announce != nil):
		return got.Answer, nil
	}
	return nil, fmt.Errorf("%w: reply with status %d that is neither an answer nor a refusal", unreachable, got.Status)
}

// ServeStream answers one question of the node peer, which the mesh has
// authenticated, and closes s.
func (a *Authority) ServeStream(ctx context.Context, peer identity.ID, s io.ReadWriteCloser) error {
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	var q question
	if err := readJSON(s, &q); err != nil {
		return fmt.Errorf("certificate request from %s: %w", peer.Short(), err)
	}
	var got reply
	answer, err := a.serve(ctx, peer, &q)
	if err != nil {
		got.Error = asRefusal(err)
		got.Status = got.Error.Status
	} else {
		got = reply{Status: http.StatusOK, Answer: answer}
	}
	if werr := writeJSON(s, &got); werr != nil {
		return fmt.Errorf("answer %s: %w", peer.Short(), werr)
	}
	if err != nil && !isRefusal(err) {
		return err
	}
	return nil
}

func (a *Authority) serve(ctx context.Context, peer identity.ID, q *question) (*identity.EnrolResponse, error) {
	switch {
	case q.Enrol != nil:
		return a.Enrol(ctx, q.Enrol)
	case q.Renew != nil:
		return a.Renew(ctx, q.Renew)
	case q.Announce != nil:
		n := directory.Node{
			ID: peer, Site: q.Announce.Site, Mesh: q.Announce.Mesh, API: q.Announce.API,
			MQTT: q.Announce.MQTT, Roles: q.Announce.Roles,
		}
		return nil, a.Announce(peer, n)
	}
	return nil, refuse(http.StatusBadRequest, "", "a question of a kind that this node does not know")
}

func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > identity.MaxBodyBytes {
		return fmt.Errorf("message of %d bytes, at most %d", len(b), identity.MaxBodyBytes)
	}
	_, err = w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readJSON(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > identity.MaxBodyBytes {
		return fmt.Errorf("message of %d bytes, at most %d", n, identity.MaxBodyBytes)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
