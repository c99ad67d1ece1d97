package durable

import (
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/durable/disk"
)

// beginHistory turns a copy of a store, by a repair or a backup, into a store of its
// own: b removes all values of a scope that belongs to the numbers of one history of
// the store, see [store.OfHistory]. The copy does not know the numbers that the
// original gave after it. b also sets the format, in case damage took it.
func beginHistory(db *disk.Database, b *pebble.Batch) error {
	must(b.Set(metaFormat, []byte{version}, nil))
	values := &pebble.IterOptions{LowerBound: []byte{columnValue}, UpperBound: []byte{columnValue + 1}}
	return db.View(values, func(it *pebble.Iterator) error {
		for ok := it.First(); ok; ok = it.Next() {
			if k, err := cutValueKey(it.Key()); err == nil && strings.HasPrefix(k.scope, store.OfHistory) {
				must(b.Delete(it.Key(), nil))
			}
		}
		return nil
	})
}
