package store_test

import (
	"testing"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(_ *testing.T, l store.Limits) store.Store { return store.NewMemory(l) })
}
