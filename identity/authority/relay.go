package authority

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

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

	crl atomic.Pointer[[]byte] // the newest revocation lists that came by
}

// question is a request on a mesh stream, one per stream: a little-endian 32-bit
// length and JSON.
type question struct {
	Enrol    *identity.EnrolRequest `json:"enrol,omitempty"`
	Renew    *identity.RenewRequest `json:"renew,omitempty"`
	Announce *announcement          `json:"announce,omitempty"`
	CRL      bool                   `json:"crl,omitempty"`
}

type announcement struct {
	Site  string   `json:"site"`
	Mesh  []string `json:"mesh,omitempty"`
	API   []string `json:"api,omitempty"`
	MQTT  []string `json:"mqtt,omitempty"`
	Roles []string `json:"roles,omitempty"`
}

// reply is the answer, in the same form.
type reply struct {
	Status int                     `json:"status"`
	Answer *identity.EnrolResponse `json:"answer,omitempty"`
	CRL    string                  `json:"crl,omitempty"`
	Error  *identity.APIError      `json:"error,omitempty"`
}

// Roots returns this node's root certificates.
func (r *Relay) Roots() []*x509.Certificate { return r.Bundle().Roots() }

// Enrol passes an enrolment on.
func (r *Relay) Enrol(ctx context.Context, req *identity.EnrolRequest) (*identity.EnrolResponse, error) {
	return r.certificate(ctx, &question{Enrol: req})
}

// Renew passes a renewal on. It is an [identity.Renewal].
func (r *Relay) Renew(ctx context.Context, req *identity.RenewRequest) (*identity.EnrolResponse, error) {
	return r.certificate(ctx, &question{Renew: req})
}

// crlPatience is how long a relay waits for the authority's revocation lists.
const crlPatience = 10 * time.Second

// CRL returns the authority's revocation lists, or the newest that came by while
// it cannot be reached: they say themselves until when they hold.
func (r *Relay) CRL(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, crlPatience)
	defer cancel()
	got, err := r.ask(ctx, &question{CRL: true})
	if err != nil {
		if kept := r.crl.Load(); kept != nil && asRefusal(err).Status == http.StatusServiceUnavailable {
			return *kept, nil
		}
		return nil, err
	}
	text := []byte(got.CRL)
	if kept := r.crl.Load(); kept != nil && bytes.Equal(*kept, text) {
		return *kept, nil // one copy in memory, however many clients take it
	}
	r.crl.Store(&text)
	return text, nil
}

// Announce tells the authority where this node is reached; see
// [Authority.Announce].
func (r *Relay) Announce(ctx context.Context, n directory.Node) error {
	_, err := r.ask(ctx, &question{Announce: &announcement{n.Site, n.Mesh, n.API, n.MQTT, n.Roles}})
	return err
}

func (r *Relay) certificate(ctx context.Context, q *question) (*identity.EnrolResponse, error) {
	got, err := r.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	return got.Answer, nil
}

func (r *Relay) ask(ctx context.Context, q *question) (*reply, error) {
	unreachable := refuse(http.StatusServiceUnavailable, "the nearest CA node is not reachable from here; it works again when the mesh does",
		"no CA can be reached now")
	s, err := r.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unreachable, err)
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := writeJSON(s, q, identity.MaxBodyBytes); err != nil {
		return nil, fmt.Errorf("%w: %w", unreachable, err)
	}
	var got reply
	if err := readJSON(s, &got, q.replyBytes()); err != nil {
		return nil, fmt.Errorf("%w: %w", unreachable, err)
	}
	switch {
	case got.Error != nil && got.Status >= 400 && got.Status <= 599:
		got.Error.Status = got.Status
		return nil, got.Error
	case got.Error == nil && got.Status == http.StatusOK && q.answeredBy(&got):
		return &got, nil
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
	if err := readJSON(s, &q, identity.MaxBodyBytes); err != nil {
		return fmt.Errorf("certificate request from %s: %w", peer.Short(), err)
	}
	got, err := a.serve(ctx, peer, &q)
	got.Status = http.StatusOK
	if err != nil {
		refusal := asRefusal(err)
		got = reply{Status: refusal.Status, Error: refusal}
	}
	if werr := writeJSON(s, &got, q.replyBytes()); werr != nil {
		return fmt.Errorf("answer %s: %w", peer.Short(), werr)
	}
	if err != nil && !isRefusal(err) {
		return err
	}
	return nil
}

func (a *Authority) serve(ctx context.Context, peer identity.ID, q *question) (got reply, err error) {
	switch {
	case q.Enrol != nil:
		got.Answer, err = a.Enrol(ctx, q.Enrol)
	case q.Renew != nil:
		got.Answer, err = a.Renew(ctx, q.Renew)
	case q.Announce != nil:
		err = a.Announce(peer, directory.Node{
			ID: peer, Site: q.Announce.Site, Mesh: q.Announce.Mesh, API: q.Announce.API,
			MQTT: q.Announce.MQTT, Roles: q.Announce.Roles,
		})
	case q.CRL:
		var text []byte
		text, err = a.CRL(ctx)
		got.CRL = string(text)
	default:
		err = refuse(http.StatusBadRequest, "", "a question of a kind that this node does not know")
	}
	return got, err
}

// answeredBy reports whether got has the parts that q asks for.
func (q *question) answeredBy(got *reply) bool {
	switch {
	case q.CRL:
		return got.CRL != ""
	case q.Announce != nil:
		return true
	}
	return got.Answer != nil
}

// replyBytes bounds the reply to q. In JSON each end of a line takes two bytes.
func (q *question) replyBytes() int {
	if q.CRL {
		return identity.MaxBodyBytes + identity.MaxCRLBytes + identity.MaxCRLBytes/32
	}
	return identity.MaxBodyBytes
}

func writeJSON(w io.Writer, v any, limit int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > limit {
		return fmt.Errorf("message of %d bytes, at most %d", len(b), limit)
	}
	_, err = w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readJSON(r io.Reader, v any, limit int) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if int64(n) > int64(limit) {
		return fmt.Errorf("message of %d bytes, at most %d", n, limit)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
