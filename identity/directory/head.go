package directory

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"time"

	"github.com/hpmq/hpmq/internal/atomicfile"
)

// HeadInterval is how often the writer signs a head when nothing changes.
const HeadInterval = time.Minute

// headPause is the least time between two heads, and headRetry the time after
// one that could not be kept.
const (
	headPause = time.Second
	headRetry = 10 * time.Second
)

const maxHead = 1 << 10

// Head is the writer's signed word that at Time its log stood at Point.
type Head struct {
	Point     Point   `cbor:"1,keyasint"`
	UnixMilli int64   `cbor:"2,keyasint"`
	Signer    [8]byte `cbor:"3,keyasint"`
	Signature []byte  `cbor:"4,keyasint,omitempty"`
}

// Time returns when the head was signed, by the writer's clock.
func (h Head) Time() time.Time { return time.UnixMilli(h.UnixMilli).UTC() }

func (h Head) signed() ([]byte, error) {
	h.Signature = nil
	b, err := encoding.Marshal(h)
	return append([]byte(headDomain), b...), err
}

func (h Head) verify(x *index) error {
	key, ok := x.signer(h.Signer)
	if !ok {
		return fmt.Errorf("head: signer %x is not in the chain of signers", h.Signer)
	}
	msg, err := h.signed()
	if err != nil {
		return err
	}
	if !ed25519.Verify(key, msg, h.Signature) {
		return errors.New("head: signature does not match")
	}
	return nil
}

func decodeHead(b []byte) (Head, error) {
	var h Head
	if len(b) > maxHead {
		return h, fmt.Errorf("head of %d bytes, at most %d", len(b), maxHead)
	}
	if err := decoding.Unmarshal(b, &h); err != nil {
		return h, fmt.Errorf("head: %w", err)
	}
	return h, nil
}

// keptHead is a head as it lies on disk, with the local time of its arrival.
type keptHead struct {
	Head     Head  `cbor:"1,keyasint"`
	Received int64 `cbor:"2,keyasint"` // Unix milliseconds
}

// seen returns the time since when the head may be out of date: when it was
// signed or, if the writer's clock ran ahead, when it came.
func (k keptHead) seen() time.Time { return time.UnixMilli(min(k.Head.UnixMilli, k.Received)) }

// Head returns the newest head held here; its Time is zero when there is none.
func (d *Directory) Head() Head {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.head.Head
}

// Stale returns how long ago the writer last vouched for this node's log: an upper
// bound on the age of a fact that the node may have missed. It counts across
// restarts. On the writer it is zero, and without any head it is the longest
// time there is.
func (d *Directory) Stale() time.Duration {
	if d.Writable() {
		return 0
	}
	d.mu.RLock()
	kept := d.head
	d.mu.RUnlock()
	if kept.Head.UnixMilli == 0 {
		return math.MaxInt64
	}
	return max(d.now().Sub(kept.seen()), 0)
}

// Run signs a head at once, after each change of the log, and every
// [HeadInterval], until ctx is done. A head tells other nodes that there is a
// record, so heads follow records within [headPause]. On a replica Run only
// waits.
func (d *Directory) Run(ctx context.Context) error {
	if !d.Writable() {
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		pause := headPause
		if err := d.signHead(); err != nil {
			// Replicas see the age of the head grow; records still flow.
			d.log.WithError(err).Error("cannot sign a directory head")
			pause = headRetry
		}
		d.awaitHeadDue(ctx, pause)
	}
	return nil
}

// awaitHeadDue returns when it is time for the next head: not before pause is
// over.
func (d *Directory) awaitHeadDue(ctx context.Context, pause time.Duration) {
	earliest, latest := time.NewTimer(pause), time.NewTimer(HeadInterval)
	defer earliest.Stop()
	defer latest.Stop()
	select {
	case <-ctx.Done():
		return
	case <-earliest.C:
	}
	for {
		p := d.progress()
		if p.tip != p.head.Point {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-latest.C:
			return
		case <-p.changed:
		}
	}
}

func (d *Directory) signHead() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	h := Head{
		Point: d.tip,
		// Never back, or replicas would take the next heads for old ones.
		UnixMilli: max(d.now().UnixMilli(), d.head.Head.UnixMilli+1),
		Signer:    keyID(d.signer.Public().(ed25519.PublicKey)),
	}
	msg, err := h.signed()
	if err != nil {
		return err
	}
	h.Signature = ed25519.Sign(d.signer, msg)
	return d.storeHead(h)
}

// verifyHead reports whether the signer of h is known here. It is an error if the
// signer did not make h.
func (d *Directory) verifyHead(h Head) (known bool, err error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if _, known := d.index.signer(h.Signer); !known {
		return false, nil
	}
	return true, h.verify(&d.index)
}

// acceptHead keeps a verified head if it is the newest and this log goes as far
// as it vouches for. One that contradicts the log is refused.
func (d *Directory) acceptHead(h Head) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if h.UnixMilli <= d.head.Head.UnixMilli {
		return nil // of old news, from a replica that lags
	}
	here, ok, err := d.pointAt(h.Point.Count)
	switch {
	case err != nil:
		return err
	case !ok:
		return nil // the records are on their way
	case here != h.Point:
		return &DivergedError{Here: d.Tip(), There: h.Point}
	}
	return d.storeHead(h)
}

// storeHead keeps h on disk, so that its age survives a restart, and tells the
// streams. The caller holds writing.
func (d *Directory) storeHead(h Head) error {
	kept := keptHead{h, d.now().UnixMilli()}
	b, err := encoding.Marshal(kept)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(d.headPath(), b, 0o600); err != nil {
		return fmt.Errorf("keep directory head: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.head = kept
	d.changed.Fire()
	return nil
}

func (d *Directory) headPath() string { return d.path + ".head" }

// loadHead reads the head kept by an earlier run. One that goes beyond the log
// means that the log lost records: a replica fetches them again, a writer must
// not go on, because it would sign other records under the same numbers.
func (d *Directory) loadHead() error {
	b, err := os.ReadFile(d.headPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var kept keptHead
	err = decoding.Unmarshal(b, &kept)
	h := kept.Head
	if err == nil {
		err = h.verify(&d.index)
	}
	if err != nil {
		return fmt.Errorf("%s: %w; remove the file, it comes again", d.headPath(), err)
	}
	here, ok, err := d.pointAt(h.Point.Count)
	switch {
	case err != nil:
		return err
	case ok && here == h.Point:
		d.head = kept
		return nil
	case d.Writable():
		return fmt.Errorf("%s holds %v, but this node signed a head at %v: put a newer copy of the log in its place (every replica has one), or remove %s to give the rest up", d.path, d.tip, h.Point, d.headPath())
	default:
		return nil
	}
}

// pointAt returns the position behind record count, if the log goes that far.
func (d *Directory) pointAt(count uint64) (Point, bool, error) {
	tip := d.Tip()
	switch {
	case count > tip.Count:
		return Point{}, false, nil
	case count == tip.Count:
		return tip, true, nil
	case count == 0:
		return Point{}, true, nil
	}
	e, err := d.entry(count)
	if err != nil {
		return Point{}, false, err
	}
	return Point{count, e.hash()}, true, nil
}
