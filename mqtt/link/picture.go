package link

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/store"
)

// The interest of a site lies in the store, so that a new process routes by it before
// the first client connects. A change takes effect when the store has kept it and not
// before: a crash forgets no interest under which a message was acknowledged. Backups
// and repaired stores are without it, because a filter may be missing there. A site
// with unknown interest gets everything.

// interestScope is the scope of a site's filters; each is a key.
func interestScope(site string) string { return store.OfHistory + "link/interest/" + site }

// pictureKey is the key that stands in the scope of a whole picture, beside its
// filters. Its value is our epoch and the peer's.
const pictureKey = ""

func appendPicture(epoch, peer uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, epoch), peer)
}

// loadInterest routes by the interest that the store keeps, or, if it keeps none,
// everything.
func (p *peer) loadInterest() {
	kept := p.l.opts.Store.Values(interestScope(p.site))
	picture, heard := kept[pictureKey]
	if !heard || len(picture) != 16 || binary.BigEndian.Uint64(picture) != p.l.epoch {
		p.expectEverything()
		return
	}
	p.epoch = binary.BigEndian.Uint64(picture[8:])
	next, size := make(map[string]struct{}, len(kept)), 0
	for f := range kept {
		if f != pictureKey {
			next[f], size = struct{}{}, size+filterSize(f)
		}
	}
	p.routeInterest(next, size, false, true)
}

// expectEverything routes everything to a peer with unknown interest.
func (p *peer) expectEverything() {
	p.routeInterest(map[string]struct{}{everything: {}}, filterSize(everything), false, false)
}

// forgetInterest ends the interest of a site that has no node.
func (p *peer) forgetInterest(ctx context.Context) {
	p.routeInterest(map[string]struct{}{}, 0, false, true)
	if err := p.updateStore(ctx, p.removeStored); err != nil && ctx.Err() == nil {
		p.entry().WithField(logfield.Reason, err.Error()).Warn("interest of a site without a node stays in the store")
	}
}

// storePicture makes next the interest in the store.
func (p *peer) storePicture(ctx context.Context, next map[string]struct{}, epoch uint64) error {
	p.epoch, p.unstored = epoch, false
	return p.storeInterest(ctx, func(tx store.Tx) {
		scope, picture := interestScope(p.site), appendPicture(p.l.epoch, epoch)
		kept := p.l.opts.Store.Values(scope)
		if string(kept[pictureKey]) != string(picture) {
			tx.PutValue(scope, pictureKey, picture)
		}
		for f := range kept {
			if _, still := next[f]; !still && f != pictureKey {
				tx.PutValue(scope, f, nil)
			}
		}
		for f := range next {
			if _, known := kept[f]; !known {
				tx.PutValue(scope, f, []byte{})
			}
		}
	})
}

// storeChange puts filters into the stored interest, or removes them if value is
// nil.
func (p *peer) storeChange(ctx context.Context, filters map[string]struct{}, value []byte) error {
	if p.unstored {
		return nil
	}
	return p.storeInterest(ctx, func(tx store.Tx) {
		for f := range filters {
			tx.PutValue(interestScope(p.site), f, value)
		}
	})
}

// storeInterest keeps a change of the stored interest. A full store keeps none of
// it instead: after a restart the peer gets everything until it is heard again.
func (p *peer) storeInterest(ctx context.Context, add func(store.Tx)) error {
	err := p.updateStore(ctx, add)
	if errors.Is(err, store.ErrFull) {
		p.unstored = true
		err = p.updateStore(ctx, p.removeStored)
	}
	return err
}

func (p *peer) removeStored(tx store.Tx) {
	scope := interestScope(p.site)
	for f := range p.l.opts.Store.Values(scope) {
		tx.PutValue(scope, f, nil)
	}
}

// updateStore waits until the store has kept a change. One change at a time is on its
// way, so that each change starts from the result of the last, even if ctx ended
// meanwhile.
func (p *peer) updateStore(ctx context.Context, add func(store.Tx)) error {
	select {
	case <-p.storing:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	kept := make(chan error, 1)
	p.l.opts.Store.Update(add, func(err error) {
		kept <- err
		p.storing <- struct{}{}
	})
	select {
	case err := <-kept:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
