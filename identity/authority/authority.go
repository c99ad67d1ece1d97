package authority

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/smallstep/certificates/authority"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
)

// DefaultGrace is how long after its end a certificate may still be renewed
// with the same key, unless [Options] says otherwise. Users have no grace: their
// certificate ends so that the person logs in again.
const DefaultGrace = 30 * 24 * time.Hour

// Options configures an [Authority].
type Options struct {
	Node identity.ID // this node, which cannot be revoked here; required
	Site string      // home site of identities with a ticket that names none

	Lifetimes Lifetimes
	Grace     time.Duration // zero means DefaultGrace

	// Certificate returns the lifetime and grace of one identity, as the directory
	// has it or is about to. Zero means that of the two fields above. It is called
	// whenever a certificate is issued or renewed; nil changes nothing.
	Certificate func(directory.Identity) (lifetime, grace time.Duration)

	Now func() time.Time   // nil means time.Now
	Log logrus.FieldLogger // issued, refused and suspicious requests; nil discards
}

// Lifetimes is how long certificates last from their issue on. A zero field
// means the lifetime of package identity.
type Lifetimes struct {
	Device time.Duration // devices, services and functions
	Node   time.Duration
	User   time.Duration
}

// ErrUnknown is returned for an identity that the directory has never seen.
var ErrUnknown = errors.New("unknown identity")

// Authority issues, renews and revokes. Its methods may be called from any
// goroutine. It starts nothing and needs no closing.
type Authority struct {
	keys         *Keys
	dir          *directory.Directory
	node         identity.ID
	site         string
	life         Lifetimes
	grace        time.Duration
	own          func(directory.Identity) (lifetime, grace time.Duration)
	now          func() time.Time
	log          logrus.FieldLogger
	step         *authority.Authority
	db           *database
	names        nameLocks
	recordLimits *limiter[identity.ID] // bounds the records that identities cause about themselves
	crl          crl

	clones atomic.Uint64
}

// New returns the authority that issues with keys and records in d, which must
// be the writer opened with keys.Signer.
func New(keys *Keys, d *directory.Directory, opts Options) (*Authority, error) {
	if !d.Writable() {
		return nil, errors.New("an authority needs the writable directory")
	}
	if opts.Node.TrustDomain != keys.trustDomain || opts.Node.Kind != identity.Node {
		return nil, fmt.Errorf("authority of %s cannot run on %q", keys.trustDomain, opts.Node)
	}
	a := &Authority{
		keys: keys, dir: d, node: opts.Node, site: opts.Site, grace: opts.Grace, now: opts.Now, log: opts.Log, own: opts.Certificate,
		db: &database{dir: d, asked: map[identity.ID]*grant{}},
		life: Lifetimes{
			Device: cmp.Or(opts.Lifetimes.Device, identity.DeviceLifetime),
			Node:   cmp.Or(opts.Lifetimes.Node, identity.NodeLifetime),
			User:   cmp.Or(opts.Lifetimes.User, identity.UserLifetime),
		},
	}
	a.recordLimits = newLimiter[identity.ID](recordLimit)
	if a.grace == 0 {
		a.grace = DefaultGrace
	}
	if a.own == nil {
		a.own = func(directory.Identity) (lifetime, grace time.Duration) { return 0, 0 }
	}
	if a.now == nil {
		a.now = time.Now
	}
	a.log = logfield.OrSilent(a.log)
	var err error
	a.step, err = authority.NewEmbedded(
		authority.WithX509RootCerts(keys.root),
		authority.WithX509SignerFunc(a.stepSigner),
		authority.WithX509IntermediateCerts(keys.issuer.cert),
		authority.WithDatabase(a.db),
		authority.WithQuietInit(),
	)
	if err != nil {
		return nil, fmt.Errorf("start certificate authority: %w", err)
	}
	if end, err := keys.renewalFailure(); err != nil {
		a.log.WithField("not_after", end.UTC()).WithError(err).
			Warn("the intermediate certificate cannot be renewed; nothing is issued after its end")
	}
	if err := keys.ensureRootList(); err != nil {
		a.log.WithError(err).
			Info("no revocation list of the root; TLS clients that check the intermediate too, as curl does, cannot use those of the intermediate")
	}
	return a, nil
}

// stepSigner gives smallstep the issuer of the moment.
func (a *Authority) stepSigner() ([]*x509.Certificate, crypto.Signer, error) {
	i, err := a.keys.current()
	if err != nil {
		return nil, nil, err
	}
	return []*x509.Certificate{i.cert}, i.key, nil
}

// lifetimeOf returns how long the next certificate of p lasts, if its issuer does.
func (a *Authority) lifetimeOf(p directory.Identity) time.Duration {
	own, _ := a.own(p)
	switch p.ID.Kind {
	case identity.User:
		return cmp.Or(own, a.life.User)
	case identity.Node:
		return cmp.Or(own, a.life.Node)
	case identity.Device, identity.Service, identity.Function:
	}
	return cmp.Or(own, a.life.Device)
}

// graceOf returns how long after its end a certificate of p may renew.
func (a *Authority) graceOf(p directory.Identity) time.Duration {
	_, own := a.own(p)
	return cmp.Or(own, a.grace)
}

// mayRecord counts one record that p asks for about itself and reports whether it
// may be made.
func (a *Authority) mayRecord(p directory.Identity) bool {
	return a.recordLimits.allowAt(p.ID, a.now(), recordsFor(a.lifetimeOf(p)).rate)
}

// Roots returns the root certificates that clients pin.
func (a *Authority) Roots() []*x509.Certificate { return []*x509.Certificate{a.keys.root} }

// Bundle returns the trust bundle of the domain.
func (a *Authority) Bundle() *identity.Bundle { return a.keys.Bundle() }

// Clones returns how many renewals were refused because the certificate had been
// renewed before by another party with the same key.
func (a *Authority) Clones() uint64 { return a.clones.Load() }
