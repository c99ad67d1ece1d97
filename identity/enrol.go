package identity

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// EnrolOptions adjusts [Enrol]. The zero value is usable.
type EnrolOptions struct {
	Names    []string          // DNS names and IP addresses that a node wants in its certificate
	Progress func(line string) // called with each stage, "[2/5] CA pinned by ticket", and each wait; nil is no call
	Dial     Dialer
}

// Enrol trades a ticket for a certificate and fills s with it. The key is made
// here, or taken from s when an earlier try was cut short, and never leaves.
// Each address of the ticket is tried in turn, again and again with growing
// random waits, until one answers or ctx ends; a refusal is an *[APIError] and
// final. Whether the ticket is over is the authority's to say: the clock here
// may be wrong.
func Enrol(ctx context.Context, t *Ticket, s *Store, o EnrolOptions) (*EnrolResponse, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	id := t.Identity()
	if held := s.SVID(); held != nil && held.ID != id {
		return nil, fmt.Errorf("%s already holds %s, the ticket is for %s: choose another directory", s.Dir(), held.ID.Short(), id.Short())
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	e := &enrolment{ticket: t, store: s, opts: o}
	answer, err := retry(ctx, maxBackoff, func(wait time.Duration, err error) {
		o.Progress(fmt.Sprintf("      %v; next try in %s", err, wait.Round(100*time.Millisecond)))
	}, func() (*EnrolResponse, error) {
		return tryEach(t.Addrs, func(addr string) (*EnrolResponse, error) { return e.try(ctx, addr) })
	})
	if late := t.CheckTime(time.Now()); late != nil && errors.Is(err, ErrUnreachable) {
		return nil, fmt.Errorf("%w; %w", late, err) // likely why no authority answered
	}
	if err != nil {
		return nil, err
	}
	o.Progress(fmt.Sprintf("[5/5] certificate saved in %s, valid until %s", s.Dir(), answer.NotAfter.UTC().Format(time.RFC3339)))
	addrs := onlyOnce([]string{e.addr}, answer.API, t.Addrs)
	if _, err := s.UpdateCRL(ctx, HTTPCRL(s, addrs, o.Dial)...); err != nil {
		o.Progress(fmt.Sprintf("      no %s, which only clients that check it need: %v", CRLFile, err))
	}
	return answer, nil
}

// enrolment is one run of Enrol.
type enrolment struct {
	ticket *Ticket
	store  *Store
	opts   EnrolOptions
	key    crypto.Signer // once made
	addr   string        // that answered
}

// try goes through the stages with one address.
func (e *enrolment) try(ctx context.Context, addr string) (*EnrolResponse, error) {
	root, err := e.fetchRoot(ctx, addr)
	if err != nil {
		return nil, err
	}
	if err := e.haveKey(); err != nil {
		return nil, err
	}
	csr, err := NewCSR(e.key, e.ticket.Identity(), e.opts.Names...)
	if err != nil {
		return nil, err
	}
	req, err := e.ticket.Request(csr)
	if err != nil {
		return nil, err
	}
	bundle := NewBundle(e.ticket.TrustDomain, root)
	c := newAPIClient(addr, e.opts.Dial, apiTLS(verifyServer(bundle)))
	answer, err := c.post(ctx, EnrolPath, req)
	if err != nil {
		return nil, err
	}
	svid, err := answer.svid(e.ticket.Identity(), bundle, e.key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	e.addr = addr
	return answer, e.save(svid, bundle, answer)
}

// fetchRoot is stages 1 to 3. The connection is not verified before the root's
// hash is compared with the ticket's; then its own chain must lead to the root.
func (e *enrolment) fetchRoot(ctx context.Context, addr string) (*x509.Certificate, error) {
	start := time.Now()
	c := newAPIClient(addr, e.opts.Dial, apiTLS(nil))
	text, resp, err := c.do(ctx, http.MethodGet, RootsPath+hex.EncodeToString(e.ticket.RootHash[:]), nil)
	if refused(err) {
		// Not yet known to be ours, so its refusal must not count as one.
		return nil, fmt.Errorf("%s does not know the CA of this ticket", addr)
	}
	if err != nil {
		return nil, err
	}
	e.opts.Progress(fmt.Sprintf("[1/5] broker %s reachable (%d ms)", addr, time.Since(start).Milliseconds()))
	roots, err := ParseCertificates(text)
	if err != nil || sha256.Sum256(roots[0].Raw) != e.ticket.RootHash {
		return nil, fmt.Errorf("%s shows another CA than the ticket pins", addr)
	}
	if err := verifyServer(NewBundle(e.ticket.TrustDomain, roots[0]))(*resp.TLS); err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	e.opts.Progress(fmt.Sprintf("[2/5] CA pinned by ticket (%x)", e.ticket.RootHash[:4]))
	e.opts.Progress("[3/5] " + clockLine(resp.TLS, time.Now()))
	return roots[0], nil
}

// clockLine says whether the local clock fits the server's certificate.
func clockLine(state *tls.ConnectionState, now time.Time) string {
	if WithinValidity(state.PeerCertificates, now).Equal(now) {
		return "clock agrees with the broker's certificate"
	}
	return fmt.Sprintf("clock says %s, which cannot be right: going on, the ticket needs no clock; set it for TLS",
		now.UTC().Format(time.DateOnly))
}

// haveKey is stage 4: the key of an earlier try for this identity, or a new one
// that is on disk before the authority hears of it.
func (e *enrolment) haveKey() error {
	if e.key != nil {
		return nil
	}
	id := e.ticket.Identity()
	p, err := e.store.readPending()
	if err != nil {
		return err
	}
	switch held := e.store.SVID(); {
	case held != nil:
		e.key = held.Key
		e.opts.Progress("[4/5] key of this directory used again")
		return nil
	case p != nil && p.Identity == id:
		if e.key, err = decodeKey([]byte(p.Key)); err != nil {
			return err
		}
		e.opts.Progress("[4/5] key of the interrupted enrolment used again")
		return nil
	}
	key, err := NewKey()
	if err != nil {
		return err
	}
	text, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := e.store.writePending(&pending{Identity: id, Key: string(text)}); err != nil {
		return err
	}
	e.key = key
	e.opts.Progress("[4/5] key made (P-256, it never leaves this device)")
	return nil
}

func (e *enrolment) save(svid *SVID, bundle *Bundle, answer *EnrolResponse) error {
	record := &Enrolment{ID: svid.ID, Signer: e.ticket.Signer, API: e.ticket.Addrs, Ticket: e.ticket.Addrs}
	record.update(answer)
	if err := e.store.saveEnrolment(record); err != nil {
		return err
	}
	return e.store.Save(svid, bundle)
}

// update takes over an answer's facts about the fabric.
func (e *Enrolment) update(answer *EnrolResponse) {
	e.Site, e.MQTT, e.Mesh, e.Heard = answer.Site, answer.MQTT, answer.Mesh, Addresses{}
	if len(answer.API) > 0 {
		e.API = answer.API
	}
}

// svid checks that the answer's certificate is id's, leads to the roots already
// trusted and fits one of keys, and puts the two together. New roots are never
// taken from an answer: any node may have passed it on.
func (r *EnrolResponse) svid(id ID, b *Bundle, keys ...crypto.Signer) (*SVID, error) {
	chain, err := ParseCertificates([]byte(r.Certificate))
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	got, err := b.Verify(chain, WithinValidity(chain, time.Now()), x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	if got != id {
		return nil, fmt.Errorf("answer: certificate of %s, want %s", got, id)
	}
	for _, key := range keys {
		if svid, err := NewSVID(chain, key); err == nil {
			return svid, nil
		}
	}
	return nil, fmt.Errorf("answer: certificate of %s belongs to another key", id.Short())
}
