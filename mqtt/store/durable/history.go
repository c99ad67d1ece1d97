package durable

import (
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/hpmq/hpmq/mqtt/store"
)

// endHistory adds to b the removal of all values whose scope says that they go
// with the numbers of this one history of the store, see [store.OfHistory]. A
// copy begins another: what the original numbered after it is not known there.
func endHistory(db *database, b *pebble.Batch) error {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{columnValue}, UpperBound: []byte{columnValue + 1}})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		if k, err := cutValueKey(it.Key()); err == nil && strings.HasPrefix(k.scope, store.OfHistory) {
			must(b.Delete(it.Key(), nil))
		}
	}
	return it.Close()
}

// endHistoryIn is endHistory for the closed database in dir.
func (s *Store) endHistoryIn(dir string) error {
	db, err := openDatabase(s.options.fs, dir, mark{}, s.log)
	if err != nil {
		return fmt.Errorf("back up store: %w", err)
	}
	b := db.NewBatch()
	if err = endHistory(db, b); err == nil {
		err = db.commit(b, pebble.Sync)
	}
	if closeErr := db.release(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("back up store to %s: %w", dir, err)
	}
	return nil
}
