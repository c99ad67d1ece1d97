package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/socket"
	"github.com/hpmq/hpmq/mqtt/store"
)

// memoryBudget counts the bytes that the broker holds for clients and sites, and
// compares them with a ceiling: connections, sessions and all that a client may make
// them hold. Bytes that come and go within one batch are not counted. At the ceiling
// the broker refuses new work: it drops nothing that it has for that.
//
// Before that the queues of slow clients shrink: each may take a quarter of the bytes
// that are left of the first three quarters, and a small part of the last. So slow
// clients alone do not reach the ceiling.
type memoryBudget struct {
	ceiling int64 // 0: none
	store   store.Store
	held    atomic.Int64 // by outboxes, sessions, groups and pipelines
	stored  atomic.Int64 // by the store, at the last look
	full    atomic.Bool
}

// errMemory refuses work that would need memory beyond the ceiling.
var errMemory = errors.New("the broker's memory is full, try again later")

const (
	lookInterval = time.Second
	lookBytes    = 1 << 20 // that one pipeline takes before it looks
)

// charge counts bytes that are held from now on, or no longer if n is negative.
func (m *memoryBudget) charge(n int) { m.updateFull(m.held.Add(int64(n)) + m.stored.Load()) }

// total is the number of bytes that count.
func (m *memoryBudget) total() int64 { return m.held.Load() + m.stored.Load() }

// askStore asks the store for its part.
func (m *memoryBudget) askStore() {
	if m.ceiling == 0 {
		return
	}
	m.stored.Store(int64(m.store.Stats().Memory))
	m.updateFull(m.total())
}

// updateFull decides between full and not. A sixteenth lies between the two.
func (m *memoryBudget) updateFull(total int64) {
	switch full := m.full.Load(); {
	case m.ceiling == 0:
	case !full && total >= m.ceiling:
		m.full.Store(true)
	case full && total < m.ceiling-m.ceiling/16:
		m.full.Store(false)
	}
}

// share is how much of its limit one client's queue may use now.
func (m *memoryBudget) share(limit int) int {
	if m.ceiling == 0 {
		return limit
	}
	left := m.ceiling - m.total()
	return min(limit, int(max((left-m.ceiling/4)/4, left/256, 0)))
}

// The memory of things, about. That of connections is measured (the idle rows of
// docs/benchmarks.md), that of the rest counted from their structs.
const (
	socketCost   = 3 << 10  // a connection without TLS
	tlsCost      = 26 << 10 // with TLS
	streamCost   = 48 << 10 // with goroutines, as WebSocket and QUIC have them
	sessionCost  = 1 << 10
	incomingCost = 32 // a packet identifier of an incoming QoS 2 message
	filterCost   = 400
	levelCost    = 170 // of a filter's level: a node of the tree
)

func subscriptionCost(filter string) int {
	return filterCost + 2*len(filter) + levelCost*(1+strings.Count(filter, "/"))
}

// connectionCost is the memory of an idle connection.
func connectionCost(nc net.Conn) int {
	switch _, sealed := nc.(*tls.Conn); {
	case socket.Of(nc) == nil:
		return streamCost
	case sealed:
		return tlsCost
	}
	return socketCost
}

// heldWhenFull is the memory that a connection may have while the budget is full,
// beside its own cost: unfinished packets and topic aliases of the usual size.
const heldWhenFull = 64 << 10

// chargeMemory counts bytes that the connection has in memory. Of its reader.
func (c *conn) chargeMemory(n int) {
	c.charged += n
	c.b.memory.charge(n)
}

// memoryAllows refuses a packet or an alias of n bytes for want of memory.
func (c *conn) memoryAllows(n int) error {
	if aliases := c.charged - connectionCost(c.nc) - c.partialCharged; aliases+n > heldWhenFull && c.b.memory.full.Load() {
		return &packet.Error{Code: packet.QuotaExceeded, Msg: errMemory.Error()}
	}
	return nil
}

// chargePartial makes n the bytes that count for an incomplete packet.
func (c *conn) chargePartial(n int) {
	if n != c.partialCharged {
		c.chargeMemory(n - c.partialCharged)
		c.partialCharged = n
	}
}

// watchMemory looks at the store now and then, and tells of the ceiling.
func (b *Broker) watchMemory(ctx context.Context) {
	if b.memory.ceiling == 0 {
		return
	}
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	told := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b.memory.askStore()
		if full := b.memory.full.Load(); full != told {
			told = full
			if full {
				b.log.WithField("held_bytes", b.memory.total()).WithField("ceiling_bytes", b.memory.ceiling).
					Error("memory is full: new clients and messages are refused until what waits is delivered; see hpmq clients, or raise the limit memory")
			} else {
				b.log.Info("memory has room again")
			}
		}
	}
}
