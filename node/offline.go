package node

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/mqtt"
)

const (
	// DefaultOfflineMax is how long peers whose certificates have ended are served
	// while no CA is heard.
	DefaultOfflineMax = 14 * 24 * time.Hour

	// cutAfter is how far apart two heads are that have a cut between them.
	cutAfter = 2 * directory.HeadInterval

	// maxSettle bounds the time after a cut in which a certificate that ended in it
	// is still served: its owner may renew once a day.
	maxSettle = 24 * time.Hour
)

// offline is the rule by which a node works without its CA. A certificate that has
// ended is served on three conditions:
//
//   - it was still valid at the time of the newest directory head that this node has;
//   - the directory has its identity as active, with the same key;
//   - that head is not older than max, or than max_stale of a grant if that is less.
//
// So a certificate that was valid when the CA was last heard goes on, and one that
// had ended before stays out. When the CA is heard again, the certificates that
// ended meanwhile are served for as long again as the CA was away, at most a day:
// their owners need the time to renew.
//
// The rule holds for nodes, devices and services. A user's certificate ends.
type offline struct {
	directory *directory.Directory
	max       time.Duration
	maxOf     func(directory.Identity) time.Duration // zero means max; a longer time is cut to max
	now       func() time.Time

	mu   sync.Mutex // guards last and cut
	last time.Time  // time of the newest head seen
	cut  cut        // the last one
}

// cut is a time in which no head came.
type cut struct {
	from, to time.Time // of the heads around it
	settled  time.Time // the cut has no effect from then on
}

func newOffline(d *directory.Directory, limit time.Duration, limitOf func(directory.Identity) time.Duration) *offline {
	o := &offline{directory: d, max: limit, maxOf: limitOf, now: time.Now}
	o.observe()
	return o
}

// serves reports whether the owner of leaf, which has ended, is served.
func (o *offline) serves(leaf *x509.Certificate) bool {
	if o.max == 0 {
		return false
	}
	owner, ok := o.owner(leaf)
	if !ok {
		return false
	}
	heard, age := o.directory.Head().Time(), o.directory.Stale()
	if o.directory.Writable() {
		heard = o.now()
	}
	if leaf.NotAfter.After(heard) {
		limit := o.max
		if own := o.maxOf(owner); own > 0 {
			limit = min(limit, own)
		}
		return age <= limit
	}
	c := o.observe()
	return leaf.NotAfter.After(c.from) && !leaf.NotAfter.After(c.to) && o.now().Before(c.settled)
}

// owner returns leaf's identity; ok is whether the directory has it as active with
// leaf's key, and whether the rule holds for it.
func (o *offline) owner(leaf *x509.Certificate) (p directory.Identity, ok bool) {
	id, err := identity.LeafID(leaf)
	if err != nil {
		return p, false
	}
	switch id.Kind {
	case identity.Node, identity.Device, identity.Service:
	case identity.User, identity.Function:
		return p, false
	}
	p, ok = o.directory.Identity(id)
	return p, ok && p.State == directory.Active && p.SPKI == sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
}

// observe looks at the newest head and returns the last cut.
func (o *offline) observe() cut {
	head := o.directory.Head().Time()
	o.mu.Lock()
	defer o.mu.Unlock()
	if away := head.Sub(o.last); o.last.Unix() > 0 && away > cutAfter {
		o.cut = cut{from: o.last, to: head, settled: o.now().Add(min(away, maxSettle))}
	}
	o.last = head
	return o.cut
}

// run sees each cut as it ends.
func (o *offline) run(ctx context.Context) error {
	tick := time.NewTicker(directory.HeadInterval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			o.observe()
		}
	}
}

// outlives is the rule for an MQTT connection with a certificate that has ended.
func (o *offline) outlives(nc net.Conn, _ mqtt.Principal) bool {
	conn, ok := nc.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return false
	}
	chain := conn.ConnectionState().PeerCertificates
	return len(chain) > 0 && o.serves(chain[0])
}
