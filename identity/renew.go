package identity

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/internal/logfield"
)

// Renewal brings one request to an authority and returns its answer: over HTTPS
// ([HTTPRenewal]), over the mesh, or to an authority in the same process. A
// refusal is an *[APIError] with the status that HTTP would have; any other
// error is taken for a failure on the way, worth another try.
type Renewal func(context.Context, *RenewRequest) (*EnrolResponse, error)

// HTTPRenewal returns a Renewal that tries the addresses (host:port of the
// enrolment API) in turn and trusts src's roots, whether or not the server's
// certificate or our own has expired. The addresses are asked for each time. A
// nil dial is a net.Dialer.
func HTTPRenewal(src Source, addrs func() []string, dial Dialer) Renewal {
	return func(ctx context.Context, req *RenewRequest) (*EnrolResponse, error) {
		addrs := addrs()
		if len(addrs) == 0 {
			return nil, fmt.Errorf("%w: no address of the enrolment API is known", ErrUnreachable)
		}
		return tryEach(addrs, func(addr string) (*EnrolResponse, error) {
			return newAPIClient(addr, dial, apiTLS(verifyServer(src.Bundle()))).post(ctx, RenewPath, req)
		})
	}
}

// FirstRenewal returns a Renewal that goes the ways in turn until one brings an
// answer, or a refusal that no other way would lift.
func FirstRenewal(ways ...Renewal) Renewal {
	return func(ctx context.Context, req *RenewRequest) (*EnrolResponse, error) {
		return tryEach(ways, func(way Renewal) (*EnrolResponse, error) { return way(ctx, req) })
	}
}

// RenewAt returns when a certificate is due for renewal: after a third of its
// life, so that the authorities may be away for the rest of it. It is give or
// take a tenth that is random among certificates but fixed for each, so that a
// restart changes nothing and a fleet spreads out.
func RenewAt(s *SVID) time.Time {
	leaf := s.Leaf()
	at := lifetime(s) / 3
	sum := sha256.Sum256(leaf.Raw)
	spread := float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32) // 0 to 1
	return Issued(leaf).Add(time.Duration(float64(at) * (0.9 + 0.2*spread)))
}

// Due reports whether s should be renewed at now. A clock before the
// certificate's beginning is wrong and says nothing, so then it is due.
func Due(s *SVID, now time.Time) bool {
	return now.Before(s.Leaf().NotBefore) || !now.Before(RenewAt(s))
}

// Renewer keeps the certificate of a store fresh.
type Renewer struct {
	Store *Store             // must hold an identity
	Send  Renewal            // required
	Names func() []string    // names for a node's certificate, asked each time; nil for none
	Log   logrus.FieldLogger // nil discards

	// CRL returns the sources of revocation lists. They are asked after each renewal,
	// and by Run every day. Nil asks for none.
	CRL func() []CRLSource

	// OnRenew is called with each new identity, after it is on disk and before
	// Run or Renew goes on. Nil is no call.
	OnRenew func(*SVID)
}

// wakeUp bounds one sleep of Run, so that a suspended machine or a corrected
// clock does not let a certificate expire.
const wakeUp = time.Hour

// maxRefusedPause bounds the pause after a refusal, which an operator may have
// lifted meanwhile.
const maxRefusedPause = 8 * time.Hour

// crlEvery is how often Run fetches the revocation lists, which are signed daily.
// It tries again after a failure when it wakes next.
const crlEvery = 24 * time.Hour

// Run renews the certificate whenever it is due, until ctx is done. Failures are
// logged and tried again; an expired certificate is still tried, with its own
// key, since the policy may grant a grace.
func (r *Renewer) Run(ctx context.Context) error {
	log := r.log()
	var notBefore time.Time // monotonic guard against renewing in a loop when the clock is wrong
	var crlAt time.Time
	for {
		svid := r.Store.SVID()
		if svid == nil {
			return errNoSVID
		}
		if now := time.Now(); now.Before(notBefore) || !Due(svid, now) {
			next := RenewAt(svid)
			if next.Before(notBefore) {
				next = notBefore
			}
			if time.Since(crlAt) >= crlEvery && r.UpdateCRL(ctx) {
				crlAt = time.Now()
			}
			if !sleep(ctx, min(max(next.Sub(now), time.Second), wakeUp)) {
				return nil
			}
			continue
		}
		if err := r.renew(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			log.WithField(logfield.SPIFFEID, svid.ID.String()).WithField(logfield.Reason, err.Error()).
				Error("certificate renewal failed")
			notBefore = time.Now().Add(min(lifetime(svid)/20, maxRefusedPause))
			continue
		}
		crlAt = time.Time{}
		notBefore = time.Now().Add(lifetime(r.Store.SVID()) / 4) // before RenewAt, for any jitter
	}
}

// UpdateCRL fetches the revocation lists and reports whether that went well. A
// failure is logged: the lists that are there last for weeks.
func (r *Renewer) UpdateCRL(ctx context.Context) bool {
	if r.CRL == nil {
		return false
	}
	_, err := r.Store.UpdateCRL(ctx, r.CRL()...)
	if err != nil && ctx.Err() == nil {
		r.log().WithField(logfield.Reason, err.Error()).WithField(logfield.File, r.Store.path(CRLFile)).Warn("revocation list not fetched")
	}
	return err == nil
}

// Renew renews the certificate now, due or not, trying until an answer comes or
// ctx ends, and then fetches the revocation lists. It returns [ErrBusy] while
// another renewal of the store is under way, this process's own included.
func (r *Renewer) Renew(ctx context.Context) error {
	if err := r.renew(ctx); err != nil {
		return err
	}
	r.UpdateCRL(ctx)
	return nil
}

func (r *Renewer) renew(ctx context.Context) error {
	unlock, err := r.Store.lock()
	if err != nil {
		return err
	}
	defer unlock()
	held := r.Store.SVID()
	// Another process may have renewed it while this one waited for the lock, or a
	// full disk kept the last step of a renewal of ours.
	if err := r.Store.reload(true); err != nil {
		return err
	}
	svid := r.Store.SVID()
	if svid == nil {
		return errNoSVID
	}
	if held != nil && !svid.Leaf().Equal(held.Leaf()) {
		if r.OnRenew != nil {
			r.OnRenew(svid)
		}
		return nil
	}
	p, err := r.prepare(svid)
	if err != nil {
		return err
	}
	_, err = retry(ctx, min(maxBackoff, lifetime(svid)/20), func(wait time.Duration, err error) {
		r.log().WithField(logfield.Reason, err.Error()).WithField("wait", wait).Warn("certificate renewal delayed")
	}, func() (struct{}, error) { return struct{}{}, r.try(ctx, svid, p) })
	return err
}

// prepare returns the renewal under way, or begins one: its id and fresh key are
// on disk before the authority can hear of them, so that a crash repeats the
// request. A second id for one certificate would look like a stolen key.
func (r *Renewer) prepare(svid *SVID) (*pending, error) {
	replaces := fmt.Sprintf("%x", sha256.Sum256(svid.Leaf().Raw))
	p, err := r.Store.readPending()
	if err != nil {
		return nil, err
	}
	if p != nil && p.Request != "" && p.Replaces == replaces {
		return p, nil
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	p = &pending{Identity: svid.ID, Replaces: replaces, Request: rand.Text(), Key: string(text)}
	return p, r.Store.writePending(p)
}

// try sends the renewal once, or twice when the authority's clock proves that
// the certificate has expired unnoticed: then only its own key may renew it.
func (r *Renewer) try(ctx context.Context, svid *SVID, p *pending) error {
	fresh, err := decodeKey([]byte(p.Key))
	if err != nil {
		return fmt.Errorf("%s: %w", r.Store.path(pendingFile), err)
	}
	key := fresh
	if time.Now().After(svid.NotAfter()) {
		key = svid.Key
	}
	answer, err := r.send(ctx, svid, p.Request, key)
	if refusal, ok := errors.AsType[*APIError](err); ok && key == fresh && refusal.date.After(svid.NotAfter()) {
		answer, err = r.send(ctx, svid, p.Request, svid.Key)
	}
	if err != nil {
		return err
	}
	// A repeated id gets the first answer, which may be for either key.
	next, err := answer.svid(svid.ID, r.Store.Bundle(), fresh, svid.Key)
	if err != nil {
		return err
	}
	return r.save(next, answer)
}

func (r *Renewer) send(ctx context.Context, svid *SVID, request string, key crypto.Signer) (*EnrolResponse, error) {
	var names []string
	if r.Names != nil {
		names = r.Names()
	}
	csr, err := NewCSR(key, svid.ID, names...)
	if err != nil {
		return nil, err
	}
	req := &RenewRequest{
		Certificate: string(EncodeCertificates(svid.Chain...)),
		CSR:         csr,
		ID:          request,
		Time:        time.Now().UTC(),
	}
	if err := req.Sign(svid.Key); err != nil {
		return nil, err
	}
	answer, err := r.Send(ctx, req)
	if _, refusal := errors.AsType[*APIError](err); err == nil || refusal || errors.Is(err, ErrUnreachable) {
		return answer, err
	}
	return nil, fmt.Errorf("%w an authority: %w", ErrUnreachable, err)
}

func (r *Renewer) save(next *SVID, answer *EnrolResponse) error {
	if err := r.Store.ChangeEnrolment(func(e *Enrolment) { e.update(answer) }); err != nil {
		return err
	}
	if err := r.Store.Save(next, r.Store.Bundle()); err != nil {
		return err
	}
	r.log().WithField(logfield.SPIFFEID, next.ID.String()).WithField("not_after", next.NotAfter().UTC()).
		Info("certificate renewed")
	if off := time.Until(answer.ServerTime); !answer.ServerTime.IsZero() && off.Abs() > clockSkew {
		r.log().WithField("behind", off.Round(time.Second).String()).
			Warn("this machine's clock differs from the authority's: set it")
	}
	if r.OnRenew != nil {
		r.OnRenew(next)
	}
	return nil
}

// clockSkew is how far two clocks may be apart before it is worth a word.
const clockSkew = 5 * time.Minute

func (r *Renewer) log() logrus.FieldLogger { return logfield.OrSilent(r.Log) }

// lifetime is the life of s's certificate, from its issue on.
func lifetime(s *SVID) time.Duration { return s.NotAfter().Sub(Issued(s.Leaf())) }
