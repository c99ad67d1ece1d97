package authority

import (
	"sync"

	"github.com/hpmq/hpmq/identity"
)

// nameLocks lets one change of an identity happen at a time. Changes of different
// identities share the disk's sync.
type nameLocks struct {
	mu   sync.Mutex
	held map[identity.ID]*nameLock
}

type nameLock struct {
	sync.Mutex

	users int // holder and waiters; guarded by nameLocks.mu
}

// lock waits for id and returns the function that unlocks it.
func (n *nameLocks) lock(id identity.ID) (unlock func()) {
	n.mu.Lock()
	if n.held == nil {
		n.held = map[identity.ID]*nameLock{}
	}
	l := n.held[id]
	if l == nil {
		l = new(nameLock)
		n.held[id] = l
	}
	l.users++
	n.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		n.mu.Lock()
		defer n.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(n.held, id)
		}
	}
}
