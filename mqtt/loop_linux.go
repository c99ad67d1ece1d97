package mqtt

import (
	"crypto/tls"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/mqtt/socket"
)

// loop reads from many sockets in one goroutine, which sleeps in epoll and not in
// the scheduler: a message that comes alone costs one wake-up of one thread. It
// handles the packets that wait for nothing. A connection whose next packet may wait,
// for the store, a function, room or its end, leaves for a goroutine of its own and
// comes back after it.
type loop struct {
	b    *Broker
	poll *socket.Poll

	mu    sync.Mutex // guards conns
	conns []*conn    // by descriptor

	// Of the loop's goroutine.
	workspace  *workspace
	now        time.Duration  // since b.start
	ceded      time.Duration  // when it last went through the scheduler
	events     []socket.Event // of this round
	ready      []readiness    // the connections that they are of
	unfinished []*conn        // have more than a read took
	readConns  []*conn        // were read in this round
	leaving    []departure    // leave after this round
	read       int            // bytes since the last flush
	steady     int            // rounds in a row that saw steady streams and nothing else
	chunk      *buffer        // of all reads
	sealed     []byte         // of all reads below TLS
}

type readiness struct {
	c     *conn
	event socket.Event
}

// departure is a connection that needs a goroutine, for the packet in its partial
// buffer or because it is over.
type departure struct {
	c   *conn
	err error
}

const (
	loopSealed = 64 << 10  // and at most as much of plain text
	flushAfter = 128 << 10 // bytes read, within a round

	// cedeAfter keeps a loop from running in one time slice of the scheduler for
	// 10 ms. Its monitor thread would then take the processor away in the middle of
	// epoll_wait, and look for more of that every 20 µs: 35 µs of CPU for each of
	// 5,000 messages a second, and 10 without.
	cedeAfter  = 4 * time.Millisecond
	wakeEvents = 256

	// A connection that brings a message of QoS 0 every 10 µs or faster, in small
	// pieces, is a steady stream. While there is nothing else to do, the loop lets
	// some of it gather before it reads: each write costs more than 1 µs, and no client
	// waits for an answer. The pause is 70 µs with the kernel's usual timer slack.
	steadyGap    = 10 * time.Microsecond
	steadyRead   = 16 << 10
	steadyRounds = 4
	steadyPause  = 20 * time.Microsecond
)

// loops are the event loops of a broker. They run while a listener is served and
// a connection has asked for one.
type loops struct {
	next atomic.Uint32

	mu      sync.Mutex
	users   int
	failed  bool
	all     []*loop
	running sync.WaitGroup
}

// addUser keeps the loops until leave.
func (ls *loops) addUser() {
	ls.mu.Lock()
	ls.users++
	ls.mu.Unlock()
}

// removeUser ends the loops with their last user. None has a connection by then.
func (ls *loops) removeUser() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.users--; ls.users > 0 {
		return
	}
	for _, l := range ls.all {
		l.poll.Wake()
	}
	ls.running.Wait()
	ls.all = nil
}

// endClients ends the connections of a listener.
func (ls *loops) endClients(clients *sync.WaitGroup) {
	ls.mu.Lock()
	all := slices.Clone(ls.all)
	ls.mu.Unlock()
	var theirs []*conn
	for _, l := range all {
		l.mu.Lock()
		for _, c := range l.conns {
			if c != nil && c.clients == clients {
				theirs = append(theirs, c)
			}
		}
		l.mu.Unlock()
	}
	for _, c := range theirs {
		c.endWithListener()
	}
}

// pick returns the loop of a new connection, or nil. One core is left to
// everything else: to goroutines, and to the scheduler, which otherwise takes the
// processor away from each loop that sleeps.
func (ls *loops) pick(b *Broker) *loop {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for n := max(1, runtime.GOMAXPROCS(0)-1); len(ls.all) < n && !ls.failed; {
		l, err := newLoop(b)
		if err != nil {
			b.log.WithError(err).Error("no event loop, each client gets a goroutine")
			ls.failed = true
			break
		}
		ls.all = append(ls.all, l)
		ls.running.Go(l.run)
	}
	if len(ls.all) == 0 {
		return nil
	}
	return ls.all[int(ls.next.Add(1))%len(ls.all)]
}

func newLoop(b *Broker) (*loop, error) {
	poll, err := socket.NewPoll(wakeEvents)
	if err != nil {
		return nil, err
	}
	return &loop{
		b: b, poll: poll, workspace: getWorkspace(b),
		chunk: chunkPool.Get().(*buffer), sealed: make([]byte, loopSealed),
	}, nil
}

func (l *loop) run() {
	defer putWorkspace(l.workspace)
	defer l.poll.Close()
	for l.wait() {
		l.round()
	}
}

// wait finds out which connections are ready, and reports false when the loop
// shall end.
func (l *loop) wait() bool {
	if len(l.unfinished) > 0 {
		l.steady = 0
	}
	if l.steady > steadyRounds { // all reads of late were steady
		l.poll.Pause(steadyPause)
	}
	var on bool
	l.events, on = l.poll.Wait(l.events[:0], len(l.unfinished) == 0)
	l.ready = l.ready[:0]
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if c := l.conns[e.FD]; c != nil {
			l.ready = append(l.ready, readiness{c, e})
		}
	}
	return on
}

// round reads from each connection that is ready, and then flushes the packets that
// all of them caused.
func (l *loop) round() {
	l.now = time.Since(l.b.start)
	l.steady++
	again := len(l.unfinished)
	for i := range l.ready {
		c, event := l.ready[i].c, l.ready[i].event
		if event.Writable() {
			c.descriptor.Writable()
		}
		if c.away.Load() {
			continue // the goroutine that has it asks for another event in the end
		}
		if event.Ended() {
			c.descriptor.ExpectEnd()
		}
		if event.Readable() || c.unread {
			l.readConn(c)
		}
	}
	for i := range again {
		if c := l.unfinished[i]; !c.away.Load() {
			l.readConn(c)
		}
	}
	l.unfinished = l.unfinished[:copy(l.unfinished, l.unfinished[again:])]
	l.endRound()
	clear(l.ready)
	if l.now-l.ceded > cedeAfter {
		l.ceded = l.now
		runtime.Gosched()
	}
}

// readConn reads from a connection once, and handles the packets that came.
func (l *loop) readConn(c *conn) {
	c.unread = false
	dst := l.chunk.b
	c.chunk = l.chunk
	if c.partial != nil {
		if len(c.partial.b) > sharedLimit {
			dst = c.partial.growFor(c.partialSize)
			c.chunk = nil
			c.filled = len(c.partial.b)
		} else {
			c.filled = copy(dst, c.partial.b)
			c.savePartial(nil)
		}
	}
	if c.lastLarge > 0 && len(dst)/c.lastLarge*c.lastLarge > c.filled { // whole packets of that size: no rest to copy
		dst = dst[:len(dst)/c.lastLarge*c.lastLarge]
	}
	n, more, err := c.descriptor.Fill(c.sealed, dst[c.filled:], l.sealed)
	c.filled += n
	c.buf = dst
	used := 0
	var cause error
	if n > 0 {
		before := time.Duration(c.lastHeard.Swap(int64(l.now)))
		c.b.count.bytesIn.Add(uint64(n))
		l.read += n
		used, c.partialSize, cause = c.handlePackets()
		l.weigh(n, l.now-before, c.received)
		c.countRate()
		l.readConns = append(l.readConns, c)
		if used > 0 {
			c.lastLarge = 0
			if len(c.raw) >= passFrom && c.sealed == nil {
				c.lastLarge = len(c.raw)
			}
		}
	}
	if cause == nil {
		cause = err
	}
	c.savePartial(dst[used:c.filled])
	c.buf, c.filled = nil, 0
	switch {
	case cause != nil:
		c.away.Store(true)
		l.leaving = append(l.leaving, departure{c, cause})
	case c.rateDelay > 0, n > 0 && c.out.overLimit():
		c.away.Store(true)
		l.leaving = append(l.leaving, departure{c, errWaits})
	case more || c.descriptor.Ending():
		l.unfinished = append(l.unfinished, c)
	}
	if l.read >= flushAfter || l.chunk.moreHolders.Load() > 0 {
		l.flush()
	}
	if l.chunk.moreHolders.Load() > 0 { // some outbox has not written all of it
		l.chunk.freeBuffer()
		l.chunk = chunkPool.Get().(*buffer)
	}
}

// weigh ends a run of steady rounds if a connection's read was not steady: n bytes
// that complete so many messages, a while after the read before.
func (l *loop) weigh(n int, after time.Duration, messages uint64) {
	if l.workspace.answerAwaited || n > steadyRead || after > steadyGap*time.Duration(messages) {
		l.workspace.answerAwaited, l.steady = false, 0
	}
}

// flush writes the packets that the connections caused so far.
func (l *loop) flush() {
	l.read = 0
	received := uint64(0)
	for i, c := range l.readConns {
		c.own.dequeueAcked()
		received += c.received
		c.received = 0
		l.readConns[i] = nil
	}
	l.readConns = l.readConns[:0]
	if received > 0 {
		l.b.count.received.Add(received)
	}
	l.workspace.batch.flush()
}

// endRound ends a round: its packets go out, and then the connections that need a
// goroutine leave.
func (l *loop) endRound() {
	l.flush()
	for i, p := range l.leaving {
		p.c.clients.Go(func() { l.attendConn(p.c, p.err) })
		l.leaving[i] = departure{}
	}
	l.leaving = l.leaving[:0]
}

// attendConn does in a goroutine the part that the loop must not wait for.
func (l *loop) attendConn(c *conn, err error) {
	if errors.Is(err, errWaits) {
		err = c.catchUp()
	}
	if err == nil {
		c.workspace, c.looped = l.workspace, true
		err = l.watch(c, l.poll.Rearm)
	}
	if err != nil {
		c.tearDown(err)
	}
}

// catchUp handles the packets that the loop left, and waits as long as it takes.
func (c *conn) catchUp() error {
	c.workspace, c.looped = getWorkspace(c.b), false
	defer putWorkspace(c.workspace)
	if c.partial != nil {
		c.buf, c.filled = c.partial.b, len(c.partial.b)
	}
	err := c.handleBuffer(0)
	c.savePartial(c.buf[:c.filled])
	c.buf, c.filled = nil, 0
	return err
}

// joinLoop gives the connection to an event loop, if its socket is one that a loop
// can have. The reader that calls it reads no more if it did.
func (c *conn) joinLoop() (bool, error) {
	if c.loopable == nil || !c.out.claimSink() {
		return false, nil
	}
	l := c.b.loops.pick(c.b)
	var d *socket.Descriptor
	var err error
	if l != nil {
		d, err = c.loopable.HandOver()
	}
	if d == nil {
		c.loopable = nil // and does not ask again
		c.out.yieldSink(nil)
		c.flush()
		return false, err
	}
	c.out.yieldSink(socket.NewSink(c.nc))
	c.flush()
	c.savePartial(c.buf[:c.filled])
	c.buf, c.filled = nil, 0
	putWorkspace(c.workspace)
	c.workspace, c.looped = l.workspace, true
	c.sealed, _ = c.nc.(*tls.Conn)
	c.descriptor, c.loop = d, l
	c.clients.Add(1)
	unhook := c.stopHook // the loop tells c of the listener's end
	c.stopHook, c.connectTimer = nil, nil
	if err := l.addConn(c); err != nil {
		unhook()
		return false, err
	}
	unhook()
	return true, nil
}

// addConn gives a connection to the loop, which has it as soon as add is called.
func (l *loop) addConn(c *conn) error {
	l.mu.Lock() // an event of it waits until it is in the table
	defer l.mu.Unlock()
	fd := c.descriptor.FD()
	for len(l.conns) <= fd {
		l.conns = append(l.conns, nil)
	}
	l.conns[fd] = c
	return l.watch(c, l.poll.Add)
}

// watch asks for the events of a connection by Add or Rearm of the poll.
func (l *loop) watch(c *conn, ask func(*socket.Descriptor) error) error {
	c.unread = true
	c.away.Store(false)
	err := ask(c.descriptor)
	if err != nil {
		c.away.Store(true)
	}
	return err
}

// removeConn closes the descriptor of a connection that is over.
func (l *loop) removeConn(c *conn) {
	l.mu.Lock()
	l.conns[c.descriptor.FD()] = nil
	l.mu.Unlock()
	c.descriptor.Release()
}
