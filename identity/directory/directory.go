package directory

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
)

// ErrReplica is returned by [Directory.Put] on a node that is not the writer.
var ErrReplica = errors.New("this node's directory is a replica, only the writer appends")

// Options configures a [Directory]. The zero value makes a replica.
type Options struct {
	// Signer makes this directory the writer. It must be the root key or have
	// been added by a signer record. At most one node may have it.
	Signer ed25519.PrivateKey

	Now func() time.Time   // nil means time.Now
	Log logrus.FieldLogger // nil discards
}

// Point is a position in the log: the number of records before it and the hash
// of the last of them. Two logs that have a point in common are equal up to it.
type Point struct {
	Count uint64   `cbor:"1,keyasint"`
	Hash  [32]byte `cbor:"2,keyasint"`
}

// String returns the count and the first bytes of the hash.
func (p Point) String() string { return fmt.Sprintf("%d records (%x)", p.Count, p.Hash[:6]) }

// Directory is one node's copy of the records. Its methods may be called from
// any goroutine.
type Directory struct {
	path   string
	root   ed25519.PublicKey
	signer ed25519.PrivateKey
	now    func() time.Time
	log    logrus.FieldLogger

	queueMu sync.Mutex
	queue   []*put // waiting for the next commit, oldest first

	// writing serializes appends. Its holder may also read the fields that mu guards.
	writing sync.Mutex
	file    *logFile
	clock   uint64 // hybrid clock of the last record

	mu      sync.RWMutex // guards the fields below; locked for writing only with writing held
	index   index
	spans   []span // spans[i] is where record i+1 lies
	tip     Point
	head    keptHead
	changed wake.Broadcast // tip, head or policyInForce moved

	policyInForce uint64 // version that this node acts by

	refused  atomic.Uint64 // see [Directory.Refused]
	replicas replicas      // nodes that follow this one
	sources  sources       // nodes that this one follows
	stampMu  sync.Mutex    // guards stamped
	stamped  uint64        // the last of Stamp
}

// Open opens the directory log at path, or begins one, and checks it. root is
// the first signer's key, the one that tickets pin.
func Open(path string, root ed25519.PublicKey, opts Options) (*Directory, error) {
	if len(root) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("directory root key of %d bytes, want %d", len(root), ed25519.PublicKeySize)
	}
	d := newDirectory(path, root, opts)
	if err := d.load(); err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	return d, nil
}

func newDirectory(path string, root ed25519.PublicKey, opts Options) *Directory {
	d := &Directory{
		path: path, root: root, signer: opts.Signer, now: opts.Now, log: opts.Log,
		index:    newIndex(root),
		replicas: replicas{last: map[identity.ID]Replica{}, streams: map[identity.ID]int{}},
		sources:  sources{all: map[*source]struct{}{}},
	}
	if d.now == nil {
		d.now = time.Now
	}
	d.log = logfield.OrSilent(d.log)
	return d
}

func (d *Directory) load() error {
	var last entry
	file, torn, err := openLog(d.path, func(e entry, s span) error {
		// The chain of hashes carries the last signature back to the first record. So
		// only the signatures of new signers are checked besides it.
		if e.Seq != d.tip.Count+1 || e.Prev != d.tip.Hash {
			return fmt.Errorf("record %d does not follow record %d", e.Seq, d.tip.Count)
		}
		p, err := d.index.admit(&e, d.tip, d.clock, e.Kind == KindSigner)
		if err != nil {
			return err
		}
		d.advance(&e, p, s)
		last = e
		return nil
	})
	if err != nil {
		return err
	}
	d.file = file
	if torn > 0 {
		d.log.WithFields(logrus.Fields{logfield.File: d.path, "bytes": torn}).
			Warn("cut an incomplete record off the directory log; it was never acknowledged")
	}
	if err := d.checkOpened(&last); err != nil {
		file.file.Close()
		return err
	}
	return nil
}

func (d *Directory) checkOpened(last *entry) error {
	if d.tip.Count > 0 {
		if err := last.verify(d.index.signers[last.Signer]); err != nil {
			return fmt.Errorf("%s: %w", d.path, err)
		}
	}
	if d.signer != nil {
		id := keyID(d.signer.Public().(ed25519.PublicKey))
		if _, ok := d.index.signers[id]; !ok {
			return fmt.Errorf("%s: key %s is not in its chain of signers; it belongs to another directory", d.path, id)
		}
	}
	return d.loadHead()
}

// Close releases the log. Nothing may be in use any more.
func (d *Directory) Close() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.file.broken = errors.New("closed")
	return d.file.file.Close()
}

// Root returns the key that the chain of signers begins with.
func (d *Directory) Root() ed25519.PublicKey { return d.root }

// Writable reports whether this is the writer.
func (d *Directory) Writable() bool { return d.signer != nil }

// Refused counts the messages of other nodes that were not taken: forged, torn or
// contradicting ones, and records that the disk did not keep.
func (d *Directory) Refused() uint64 { return d.refused.Load() }

// Tip returns how far this copy goes.
func (d *Directory) Tip() Point {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.tip
}

// advance takes a durable record in. The caller holds mu, or is Open.
func (d *Directory) advance(e *entry, p Payload, s span) {
	d.index.apply(&e.Record, p)
	d.spans = append(d.spans, s)
	d.tip = Point{e.Seq, e.hash()}
	d.clock = e.HLC
}

// staged is a record that was checked and waits to be durable.
type staged struct {
	entry

	content Payload
}

// commit makes the staged records durable as one frame, applies them and tells
// the watchers. The caller holds writing. On an error nothing has changed.
func (d *Directory) commit(all []staged) error {
	if len(all) == 0 {
		return nil
	}
	var body []byte
	for i := range all {
		body = append(body, all[i].raw...)
	}
	off, err := d.file.append(body)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range all {
		e := &all[i]
		d.advance(&e.entry, e.content, span{off, uint32(len(e.raw))})
		off += int64(len(e.raw))
	}
	d.changed.Fire()
	return nil
}

// Record returns record seq, counted from 1.
func (d *Directory) Record(seq uint64) (Record, error) {
	e, err := d.entry(seq)
	return e.Record, err
}

func (d *Directory) entry(seq uint64) (entry, error) {
	d.mu.RLock()
	known := seq >= 1 && seq <= d.tip.Count
	var s span
	if known {
		s = d.spans[seq-1]
	}
	d.mu.RUnlock()
	if !known {
		return entry{}, fmt.Errorf("the directory has no record %d", seq)
	}
	raw, err := d.file.read(s)
	if err != nil {
		return entry{}, fmt.Errorf("read directory record %d: %w", seq, err)
	}
	e, _, err := decodeEntry(raw)
	return e, err
}
