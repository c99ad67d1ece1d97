package mqtt

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// trialSeeds is the number of trials of TestDelivery: enough to find a broken
// rule, few enough to run each time. Raise it to look for rare failures.
const trialSeeds = 60

// TestDelivery compares the broker with what a naive model of it promises, over a
// store that answers late and refuses now and then, over changes of the policy and
// over kills of the broker.
// Clients connect, drop, take over and resume, and acknowledge late or never.
func TestDelivery(t *testing.T) {
	for seed := range uint64(trialSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { runTrial(t, seed) }) })
	}
}

// runTrial runs one trial with the random events of a seed.
func runTrial(t *testing.T, seed uint64) {
	tr := newTrial(t, seed)
	for range 500 {
		tr.takeStep()
	}
	tr.bringToRest()
	tr.judgeAll()
	tr.close()
	if t.Failed() {
		t.Log(strings.Join(tr.story, "\n"))
	}
}

// trial is a sequence of brokers over one store, their clients, and the
// deliveries that the clients may expect.
type trial struct {
	*testServer
	seed       uint64
	rnd        *rand.Rand
	store      *slowStore
	refusing   atomic.Bool
	refusals   atomic.Int64
	outbox     int
	inflight   uint16
	players    []*player
	clients    sync.WaitGroup
	messages   map[string]*publication // by payload
	lossyKills int                     // kills that lost transactions without a callback
	published  []*publication
	wills      []*willRecord
	hidden     map[string]int // by the hidden topic or filter: the moment since which it is hidden
	shown      map[string]int // by the topic or filter that was hidden: the last moment of that
	moment     int            // counts the events
	story      []string
}

// publication is one message and its publisher's knowledge of it.
type publication struct {
	from           *player
	topic, payload string
	qos            byte
	retain, large  bool
	n              int // in its publisher's order
	session        int // its publisher's
	id             uint16
	sends          int
	first, last    int // moments at which it was sent
	answered       int // moment of its acknowledgement; 0 is none
	refusals       int64
	doubted        bool // the store refused something while it was on its way
	released       bool // PUBREC came
	refused        bool
}

// acceptedForGood reports whether the broker acknowledged the message without
// refusing it.
func (m *publication) acceptedForGood() bool { return m.answered > 0 && !m.refused }

// verdict says whether a will has to be published.
type verdict byte

const (
	mayCome verdict = iota
	mustCome
	mustNotCome
)

// willRecord is one will and the test's knowledge of the end of its connection.
type willRecord struct {
	owner          *player
	payload        string
	verdict        verdict
	delay          time.Duration
	since          int       // moment of its CONNECT
	waits          bool      // for its delay
	from, to       time.Time // between which the connection was lost
	refusals       int64
	connectRefused bool // CONNECT was refused
}

// refused reports whether the store has refused a transaction since CONNECT. A
// refusal may delay the will, or end the connection before its client does.
func (w *willRecord) refused() bool {
	return !w.connectRefused && w.refusals != w.owner.refusals.Load()
}

// slack is the longest time in which the broker may notice the end of a connection,
// over a slow store.
const slack = 20 * time.Second

// receipt is one PUBLISH that a client received.
type receipt struct {
	*packet.Publish
	session, conn int
}

// player is one client and its session, as the client knows it.
type player struct {
	*trial
	name      string
	v         packet.Version
	lasting   bool // the session outlives connections
	pinned    bool // it never begins anew
	maxPacket uint32
	filters   []packet.Subscription
	withWill  bool

	c             *client
	stall         *stallingConn
	connections   int
	connected     bool // CONNACK came
	cleanStart    bool // CONNECT asks for a new session
	connectUnseen bool // a connection went without CONNACK: the broker may see its CONNECT last
	quota         int
	connecting    time.Time
	refusedAt     int64 // refusals at CONNECT
	connectedAt   int   // moment of CONNECT
	will          *willRecord
	earlierWills  []*willRecord // of connections that are over, since the last CONNACK
	owedAnswers   []packet.Packet
	unanswered    map[uint16]string // PUBLISH of this connection, by identifier

	sessionKept   bool           // the broker has the session
	session       int            // counts them; those before are gone
	subs          map[string]int // moments of SUBACK
	pendingFilter string         // filter of the SUBSCRIBE or UNSUBSCRIBE on its way
	received      map[uint16]string
	unfinished    []*publication // not finished, oldest first
	publications  int
	receipts      []receipt
}

// stallingConn is a connection whose next Read waits for the time in stall.
type stallingConn struct {
	net.Conn
	stall atomic.Int64
}

func (c *stallingConn) Read(b []byte) (int, error) {
	if d := c.stall.Swap(0); d > 0 {
		<-time.After(time.Duration(d))
	}
	return c.Conn.Read(b)
}

// newTrial starts the first broker and chooses the clients, with random
// subscriptions.
func newTrial(t *testing.T, seed uint64) *trial {
	tr := &trial{seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), messages: map[string]*publication{}, hidden: map[string]int{}, shown: map[string]int{}}
	tr.outbox = []int{1, 200, 2000, 1 << 20}[tr.rnd.IntN(4)]
	tr.inflight = []uint16{1, 2, 20}[tr.rnd.IntN(3)]
	tr.startWith(t, nil)
	tr.addPlayer("watcher", subscribeTo("w/#", 2)).makePermanent()
	tr.addPlayer("member", subscribeTo("$share/g/s/#", tr.oneOrTwo())).makePermanent()
	tr.addPlayer("member2", subscribeTo("$share/g/s/#", tr.oneOrTwo()))
	for i := range 3 {
		p := tr.addPlayer(fmt.Sprint("sub", i))
		for _, f := range []string{"t/#", "t/1", "+/1", "r/#"} {
			if tr.flipCoin() {
				p.filters = append(p.filters, subscribeTo(f, byte(tr.rnd.IntN(3))))
			}
		}
	}
	tr.addPlayer("pub0")
	tr.addPlayer("pub1", subscribeTo("t/2", 1))
	tr.addPlayer("pub2")
	return tr
}

// startWith starts a broker over a store with the kept transactions.
func (t *trial) startWith(tt *testing.T, kept []func(store.Tx)) {
	t.store = newSlowStore(t.seed+uint64(len(kept)), kept, &t.refusing, &t.refusals)
	t.testServer = startServer(tt, func(o *Options) {
		o.Store, o.Outbox, o.Inflight = t.store, t.outbox, t.inflight
	})
	t.denied.change(func(d *denyList) { d.publish = []string{"t/denied"} })
	t.applyHidden()
}

// hideableTopics are topics that the policy hides at times, and a filter that it
// then does not grant.
var hideableTopics = []string{"t/2", "s/2", "r/#"}

// toggleHidden changes the policy for topics that match one of hideableTopics. A
// hidden message is not delivered, unless it was on its way to the client.
func (t *trial) toggleHidden(what string) {
	if _, hidden := t.hidden[what]; hidden {
		delete(t.hidden, what)
		t.shown[what] = t.moment
	} else {
		t.hidden[what] = t.moment
	}
	t.applyHidden()
	t.logEvent("hidden: %v", t.hidden)
	if _, hidden := t.hidden[what]; hidden {
		t.hidden[what] = t.moment
	}
}

// applyHidden gives the broker the policy that t.hidden describes.
func (t *trial) applyHidden() {
	t.denied.change(func(d *denyList) {
		d.receive, d.subscribe = nil, nil
		for what := range t.hidden {
			if strings.HasSuffix(what, "#") {
				d.subscribe = append(d.subscribe, what)
			} else {
				d.receive = append(d.receive, what)
			}
		}
	})
	t.broker.Reauthorize()
}

// hiddenBy returns the entry of hideableTopics that matches a topic, or an empty
// string.
func hiddenBy(name string) string {
	for _, what := range hideableTopics {
		if topic.Match(what, name) {
			return what
		}
	}
	return ""
}

// mayBeHidden reports whether the policy may have dropped m.
func (t *trial) mayBeHidden(m *publication) bool {
	_, now := t.hidden[hiddenBy(m.topic)]
	return now || t.shown[hiddenBy(m.topic)] >= m.first
}

// mayBeSentAway reports whether the policy may have ended the client's
// connection, because of a subscription that it no longer grants.
func (p *player) mayBeSentAway() bool {
	_, now := p.hidden["r/#"]
	return now || p.shown["r/#"] >= p.connectedAt
}

// checkMayReceive fails the trial if the policy hid the message from the client.
func (p *player) checkMayReceive(x *packet.Publish) {
	since, hidden := p.hidden[hiddenBy(string(x.TopicName))]
	if m := p.messages[string(x.Payload)]; hidden && m != nil && max(m.first, p.connectedAt) > since {
		p.fail("%s: %.20s came at %d, hidden since %d", p.name, m.payload, p.moment, since)
	}
}

// addPlayer adds one client to the trial.
func (t *trial) addPlayer(name string, filters ...packet.Subscription) *player {
	p := &player{
		trial: t, name: name, filters: filters, lasting: t.rnd.IntN(4) > 0, withWill: name != "watcher" && t.flipCoin(),
		v: versions[t.rnd.IntN(len(versions))], subs: map[string]int{}, received: map[uint16]string{},
	}
	if p.v == packet.V5 && t.rnd.IntN(3) == 0 {
		p.maxPacket = 150
	}
	t.players = append(t.players, p)
	return p
}

// makePermanent gives the client one session for the whole trial and no limit on
// packet sizes.
func (p *player) makePermanent() { p.lasting, p.pinned, p.maxPacket = true, true, 0 }

// flipCoin reports true half of the time.
func (t *trial) flipCoin() bool { return t.rnd.IntN(2) == 0 }

// oneOrTwo returns QoS 1 or 2.
func (t *trial) oneOrTwo() byte { return byte(1 + t.rnd.IntN(2)) }

// logEvent counts an event and adds it to the story, which a failing trial
// prints.
func (t *trial) logEvent(format string, args ...any) {
	t.moment++
	t.story = append(t.story, fmt.Sprintf("%5d %s ", t.moment, time.Now().Format("05.000"))+fmt.Sprintf(format, args...))
}

// fail fails the trial with a message that names its seed.
func (t *trial) fail(format string, args ...any) {
	t.t.Helper()
	t.logEvent("FAIL "+format, args...)
	t.t.Errorf("seed %d: %s", t.seed, fmt.Sprintf(format, args...))
}

// takeStep performs one random event.
func (t *trial) takeStep() {
	switch n := t.rnd.IntN(200); {
	case n < 20:
		synctest.Wait()
	case n < 40:
		advanceTime([]time.Duration{time.Millisecond, 20 * time.Millisecond, time.Second, 2 * time.Second}[t.rnd.IntN(4)])
	case n == 40:
		advanceTime(2 * slack)
	case n < 45:
		t.refusing.Store(!t.refusing.Load() && t.seed%2 == 0)
	case n == 45:
		t.kill()
	case n < 48:
		t.toggleHidden(hideableTopics[t.rnd.IntN(len(hideableTopics))])
	default:
		t.players[t.rnd.IntN(len(t.players))].takeAction()
	}
}

// kill kills the broker and starts another with the transactions that survive. No
// client sees what the first does after the kill.
func (t *trial) kill() {
	kept, whole := t.store.contentAtKill()
	if !whole {
		t.lossyKills++
	}
	t.logEvent("kill")
	for _, p := range t.players {
		p.noteKill()
	}
	t.testServer.close()
	t.store.stop()
	advanceTime(time.Second)
	t.startWith(t.t, kept)
	t.refusing.Store(false)
	advanceTime(3 * time.Second) // wills that are due
	for _, p := range t.players {
		for _, w := range p.earlierWills {
			w.to = time.Now()
		}
	}
}

// takeAction has the client perform one random action.
func (p *player) takeAction() {
	switch n := p.rnd.IntN(24); {
	case p.c == nil && n < 10, n == 0 && p.connected && p.flipCoin():
		p.connect(!p.pinned && (p.cleanStart || p.v == packet.V5 && n == 3))
	case p.c == nil:
	case n < 7:
		p.handlePackets(1 + p.rnd.IntN(20))
	case !p.connected:
		if n == 7 {
			p.endConnection("drop")
		}
	case n < 11:
		p.sendOwed(1 + p.rnd.IntN(len(p.owedAnswers)+1))
	case n < 12:
		p.subscribe(p.rnd.IntN(len(p.filters) + 1))
	case n < 20:
		p.publishNew()
	case n == 20:
		p.stall.stall.Store(int64(time.Duration(p.rnd.IntN(1000)) * time.Millisecond))
	case n == 21 && p.flipCoin():
		p.endConnection("drop")
	case n == 22 && p.rnd.IntN(4) == 0:
		p.c.trySend(&packet.Disconnect{})
		advanceTime(2 * time.Second) // else a CONNECT may be seen before it
		p.endConnection("leave")
	}
}

// connect opens a connection, perhaps in place of another.
func (p *player) connect(clean bool) {
	if p.c != nil {
		p.endConnection("taken over")
	}
	p.connections++
	p.cleanStart = clean || !p.lasting
	p.quota = 1 + p.rnd.IntN(3)
	c := connectPacket(p.name)
	c.CleanStart = p.cleanStart
	if p.v == packet.V5 {
		receiveMaximum(uint16(p.quota))(c)
		if p.lasting {
			sessionExpiry(never)(c)
		}
		if p.maxPacket > 0 {
			c.Properties.SetMaximumPacketSize(p.maxPacket)
		}
	} else {
		p.quota = 1 << 16
	}
	p.logEvent("%s connects (%d), clean %v", p.name, p.connections, p.cleanStart)
	p.connectedAt = p.moment
	if p.withWill {
		p.addWill(c)
	}
	if p.cleanStart {
		p.endSession()
	}
	p.connecting, p.refusedAt, p.unanswered = time.Now(), p.refusals.Load(), map[uint16]string{}
	nc, err := p.listener.Dial()
	if err != nil {
		p.t.Fatal(err)
	}
	p.stall = &stallingConn{Conn: nc}
	p.c = &client{t: p.t, nc: p.stall, v: p.v, packets: make(chan packet.Packet, 1000)}
	p.c.startReader()
	p.clients.Go(p.c.done.Wait)
	p.c.sendBytes([]byte("x\n"))
	p.c.trySend(c)
}

// addWill adds a will to c.
func (p *player) addWill(c *packet.Connect) {
	w := &willRecord{owner: p, payload: fmt.Sprint("will-", p.name, "-", p.connections), since: p.moment}
	if p.v == packet.V5 && p.flipCoin() {
		w.delay = []time.Duration{2 * time.Second, 30 * time.Second}[p.rnd.IntN(2)]
	}
	withWill("w/"+p.name, w.payload, uint32(w.delay/time.Second))(c)
	c.Will.QoS = 2
	p.will, p.wills = w, append(p.wills, w)
}

// endSession forgets the session: the broker has none any more.
func (p *player) endSession() {
	p.sessionKept = false
	p.session++
	clear(p.subs)
	clear(p.received)
	p.unfinished = nil // who knows which of them came
}

// endConnection closes the connection, and its unread packets are lost. how
// decides what becomes of the will.
func (p *player) endConnection(how string) {
	p.logEvent("%s: %s", p.name, how)
	p.c.nc.Close()
	welcome := p.connected
	p.c, p.connected, p.owedAnswers, p.pendingFilter = nil, false, nil, ""
	if !welcome && how != "refused" {
		p.connectUnseen = true
		for _, w := range p.earlierWills {
			if w.waits {
				w.verdict = mayCome
			}
		}
	}
	w := p.will
	if p.will = nil; w == nil {
		return
	}
	w.from, w.to, w.refusals = time.Now(), time.Now(), p.refusedAt
	switch {
	case how == "refused":
		w.verdict = mustNotCome
		w.connectRefused = true
	case p.mayBeSentAway():
	case how == "leave" && welcome:
		w.verdict = mustNotCome
	case !welcome, how == "thrown out":
	default:
		w.verdict = mustCome
		w.waits = w.delay > 0 && p.lasting
	}
	p.earlierWills = append(p.earlierWills, w)
}

// noteKill ends the client's connection because the broker was killed.
func (p *player) noteKill() {
	for _, w := range p.earlierWills {
		if (w.verdict == mustNotCome) == p.lasting { // the store had not kept that yet, or never knew of it
			w.verdict = mayCome
		}
	}
	if p.c != nil {
		p.endConnection("killed")
		if n := len(p.earlierWills); n > 0 && !p.lasting {
			p.earlierWills[n-1].verdict = mayCome
		}
	}
}

// handlePackets handles at most n of the packets that came.
func (p *player) handlePackets(n int) {
	for range n {
		select {
		case x, ok := <-p.c.packets:
			if !ok {
				p.endConnection("thrown out")
				return
			}
			p.handlePacket(x)
			if p.c == nil {
				return
			}
		default:
			return
		}
	}
}

// handlePacket updates the client's knowledge and fails the trial if the packet
// contradicts it.
func (p *player) handlePacket(x packet.Packet) {
	switch x := x.(type) {
	case *packet.Connack:
		p.handleConnack(x)
	case *packet.Suback:
		p.logEvent("%s: SUBACK %v", p.name, x.ReasonCodes)
		asked := p.pendingFilter
		if p.pendingFilter = ""; !x.ReasonCodes[0].Failed() {
			p.subs[asked] = p.moment
			p.subscribeNext()
		}
	case *packet.Unsuback:
		p.pendingFilter = ""
	case *packet.Publish:
		p.handlePublish(x)
	case *packet.Pubrel:
		p.logEvent("%s: PUBREL %d", p.name, x.PacketID)
		delete(p.received, x.PacketID)
		p.owedAnswers = append(p.owedAnswers, &packet.Pubcomp{PacketID: x.PacketID})
	case *packet.Puback:
		p.handleAck(x.PacketID, 1, x.ReasonCode)
	case *packet.Pubrec:
		p.handleAck(x.PacketID, 2, x.ReasonCode)
	case *packet.Pubcomp:
		p.handlePubcomp(x.PacketID)
	case *packet.Disconnect:
		if x.ReasonCode == packet.NotAuthorized && len(p.hidden)+len(p.shown) > 0 {
			return // a subscription sleeps
		}
		if (x.ReasonCode != packet.UnspecifiedError || p.refusals.Load() == 0) && (x.ReasonCode != packet.SessionTakenOver || !p.connectUnseen) {
			p.fail("%s: %s", p.name, describePacket(x))
		}
	default:
		p.fail("%s got %s", p.name, describePacket(x))
	}
}

// handleConnack takes CONNACK and sends the unfinished messages again
// [MQTT-4.4.0-1].
func (p *player) handleConnack(ack *packet.Connack) {
	p.logEvent("%s: CONNACK %v, session present %v", p.name, ack.ReasonCode, ack.SessionPresent)
	if ack.ReasonCode != packet.Success {
		if p.refusals.Load() == p.refusedAt {
			p.fail("%s: refused: %v", p.name, ack.ReasonCode)
		}
		p.endConnection("refused")
		return
	}
	if ack.SessionPresent && p.cleanStart || !ack.SessionPresent && p.sessionKept {
		p.fail("%s: session present %v", p.name, ack.SessionPresent)
	}
	p.resolveWills(ack.SessionPresent)
	if !ack.SessionPresent {
		p.endSession()
	}
	p.connected, p.sessionKept, p.cleanStart = true, p.lasting, false
	for _, m := range p.unfinished {
		if m.released {
			p.c.trySend(&packet.Pubrel{PacketID: m.id})
		} else {
			p.sendPublish(m)
		}
	}
	p.subscribeNext()
}

// subscribeNext sends SUBSCRIBE for the first filter without a subscription.
func (p *player) subscribeNext() {
	p.subscribe(slices.IndexFunc(p.filters, func(f packet.Subscription) bool {
		_, have := p.subs[f.TopicFilter]
		return !have
	}))
}

// resolveWills decides on the wills of earlier connections, when their client has
// returned with its session (present) or with a new one.
func (p *player) resolveWills(present bool) {
	for _, w := range p.earlierWills {
		if w.waits && present && w.verdict == mustCome { // [MQTT-3.1.3-9]
			switch {
			case time.Now().Before(w.from.Add(w.delay)):
				w.verdict = mustNotCome
			case p.connecting.Before(w.to.Add(w.delay + slack)):
				w.verdict = mayCome
			}
		}
		if w.refused() {
			w.verdict = mayCome
		}
	}
	p.earlierWills = nil
}

// subscribe sends SUBSCRIBE for one of the filters, or UNSUBSCRIBE.
func (p *player) subscribe(i int) {
	if p.pendingFilter != "" || i < 0 || i >= len(p.filters) {
		return
	}
	f := p.filters[i]
	p.pendingFilter = f.TopicFilter
	if _, have := p.subs[p.pendingFilter]; have && !p.pinned && p.rnd.IntN(4) == 0 {
		p.logEvent("%s unsubscribes %s", p.name, p.pendingFilter)
		delete(p.subs, p.pendingFilter)
		p.c.trySend(&packet.Unsubscribe{PacketID: 100, TopicFilters: []string{p.pendingFilter}})
		return
	}
	p.logEvent("%s subscribes %s at %d", p.name, p.pendingFilter, f.QoS)
	s := &packet.Subscribe{PacketID: 100, Subscriptions: []packet.Subscription{f}}
	if p.v == packet.V5 {
		s.Properties.SubscriptionIDs = []uint32{uint32(i + 1)}
	}
	p.c.trySend(s)
}

// publishNew publishes a new random message.
func (p *player) publishNew() {
	if len(p.unfinished) >= 5 || !strings.HasPrefix(p.name, "pub") && p.rnd.IntN(4) > 0 {
		return
	}
	p.publications++
	m := &publication{
		from: p, n: p.publications, session: p.session, qos: byte(p.rnd.IntN(3)), large: p.rnd.IntN(8) == 0,
		topic:   []string{"t/1", "t/2", "t/1", "t/2", "s/1", "s/2", "t/denied", "r/" + p.name}[p.rnd.IntN(8)],
		payload: fmt.Sprint(p.name, "-", p.publications),
	}
	if m.large {
		m.payload += strings.Repeat("x", 300)
	}
	if m.retain = m.topic[0] == 'r'; m.retain {
		m.qos = p.oneOrTwo()
	}
	p.messages[m.payload] = m
	p.published = append(p.published, m)
	if m.qos > 0 {
		for m.id = 1; slices.ContainsFunc(p.unfinished, func(o *publication) bool { return o.id == m.id }); m.id++ {
		}
		p.unfinished = append(p.unfinished, m)
	}
	p.sendPublish(m)
}

// sendPublish sends m, with DUP if it was sent before.
func (p *player) sendPublish(m *publication) {
	p.logEvent("%s publishes %.20s to %s at %d as %d", p.name, m.payload, m.topic, m.qos, m.id)
	if m.last = p.moment; m.sends == 0 {
		m.first, m.refusals = p.moment, p.refusals.Load()
	}
	m.sends++
	x := publishPacket(m.topic, m.payload, m.qos, m.id)
	x.Retain, x.Dup = m.retain, m.sends > 1
	p.c.trySend(x)
}

// handleAck takes PUBACK or PUBREC.
func (p *player) handleAck(id uint16, qos byte, code packet.ReasonCode) {
	i := slices.IndexFunc(p.unfinished, func(m *publication) bool { return m.id == id && m.qos == qos })
	if i < 0 {
		p.fail("%s: acknowledgement of nothing: %d", p.name, id)
		return
	}
	m := p.unfinished[i]
	p.logEvent("%s: %.20s acknowledged: %v", p.name, m.payload, code)
	m.answered, m.refused = p.moment, code.Failed() || m.topic == "t/denied"
	m.doubted = m.refusals != p.refusals.Load()
	if qos == 1 || code.Failed() {
		p.unfinished = slices.Delete(p.unfinished, i, i+1)
		return
	}
	m.released = true
	p.owedAnswers = append(p.owedAnswers, &packet.Pubrel{PacketID: id})
}

// handlePubcomp takes PUBCOMP.
func (p *player) handlePubcomp(id uint16) {
	i := slices.IndexFunc(p.unfinished, func(m *publication) bool { return m.id == id && m.released })
	if i < 0 {
		p.fail("%s: PUBCOMP of nothing: %d", p.name, id)
		return
	}
	p.logEvent("%s: %.20s completed", p.name, p.unfinished[i].payload)
	p.unfinished = slices.Delete(p.unfinished, i, i+1)
}

// sendOwed sends at most n of the acknowledgements that the client owes.
func (p *player) sendOwed(n int) {
	n = min(n, len(p.owedAnswers))
	for _, x := range p.owedAnswers[:n] {
		switch x := x.(type) {
		case *packet.Puback:
			p.logEvent("%s: PUBACK %d", p.name, x.PacketID)
			delete(p.unanswered, x.PacketID)
		case *packet.Pubcomp:
			p.logEvent("%s: PUBCOMP %d", p.name, x.PacketID)
			delete(p.unanswered, x.PacketID)
		}
		p.c.trySend(x)
	}
	p.owedAnswers = slices.Delete(p.owedAnswers, 0, n)
}

// handlePublish takes PUBLISH.
func (p *player) handlePublish(x *packet.Publish) {
	name := string(x.Payload)
	p.logEvent("%s: PUBLISH %.20s to %s at %d as %d, dup %v, retain %v", p.name, name, x.TopicName, x.QoS, x.PacketID, x.Dup, x.Retain)
	p.checkMayReceive(x)
	r := receipt{x, p.session, p.connections}
	if x.QoS == 0 {
		p.receipts = append(p.receipts, r)
		return
	}
	if was, open := p.unanswered[x.PacketID]; open {
		p.fail("%s: identifier %d of %.20s is %.20s's", p.name, x.PacketID, name, was)
	}
	if p.unanswered[x.PacketID] = name; len(p.unanswered) > p.quota {
		p.fail("%s: %d messages in flight, %d allowed", p.name, len(p.unanswered), p.quota)
	}
	if x.QoS == 1 {
		p.receipts = append(p.receipts, r)
		p.owedAnswers = append(p.owedAnswers, &packet.Puback{PacketID: x.PacketID})
		return
	}
	p.owedAnswers = append(p.owedAnswers, &packet.Pubrec{PacketID: x.PacketID})
	if was, open := p.received[x.PacketID]; !open {
		p.received[x.PacketID] = name
		p.receipts = append(p.receipts, r)
	} else if !x.Dup || was != name {
		p.fail("%s: %.20s again under %d of %.20s, dup %v", p.name, name, x.PacketID, was, x.Dup)
	}
}

// bringToRest connects all clients and has them acknowledge until the broker has
// nothing more to send.
func (t *trial) bringToRest() {
	t.refusing.Store(false)
	for what := range t.hidden {
		t.toggleHidden(what)
	}
	advanceTime(time.Minute + slack) // wills that are due
	for round := range 12 {
		for _, p := range t.players {
			if round == 4 && p.connected && (len(p.unfinished) > 0 || p.lasting && t.flipCoin()) { // MQTT 3.1.1 knows no refusal
				p.handlePackets(1000)
				if p.c != nil {
					p.endConnection("drop")
				}
			}
			if p.c == nil {
				p.connect(p.cleanStart)
			}
		}
		for range 20 {
			advanceTime(3 * time.Second)
			for _, p := range t.players {
				if p.c != nil {
					p.handlePackets(1000)
				}
				if p.c != nil {
					p.sendOwed(1000)
				}
			}
		}
	}
	for _, p := range t.players {
		if p.c == nil || len(p.unfinished) > 0 || len(p.received) > 0 {
			t.fail("%s: not quiet: %d messages not acknowledged, %d not released", p.name, len(p.unfinished), len(p.received))
		}
	}
	for _, s := range t.store.Sessions() {
		if n := t.store.QueueStats(s.Key).Messages; n > 0 {
			t.fail("%d messages are left for %s", n, s.Key.ClientID)
		}
	}
	if n := t.store.Stats().Queued; n != 0 {
		t.fail("%d messages are left in queues", n)
	}
}

// close ends the clients and the broker.
func (t *trial) close() {
	for _, p := range t.players {
		if p.c != nil {
			p.endConnection("end")
		}
	}
	t.testServer.close()
	t.store.stop()
	t.clients.Wait()
}

// judgeAll compares all deliveries with the model.
func (t *trial) judgeAll() {
	for _, p := range t.players {
		t.judgeOrder(p)
		t.judgeRepeats(p)
	}
	for _, m := range t.published {
		t.judgeMessage(m)
	}
	for _, w := range t.wills {
		t.judgeWill(w)
	}
	t.judgeRetained()
}

// judgeOrder looks at the first delivery of each message of a topic and QoS in each
// session [MQTT-4.6.0-5]. A message that its publisher repeated may be a later one: the store
// refused it the first time, or the client was not subscribed yet.
func (t *trial) judgeOrder(p *player) {
	type lane struct {
		session int
		from    *player
		of      int // its session: what the one before left may still be on its way
		topic   string
		qos     [2]byte // as it was published, and as it came
	}
	last := map[lane]*publication{}
	seen := map[string]bool{}
	for _, r := range p.receipts {
		m := t.messages[string(r.Payload)]
		if m == nil || r.Retain || m.topic[0] == 's' && strings.HasPrefix(p.name, "member") {
			continue
		}
		if once := fmt.Sprint(r.session, m.payload); seen[once] {
			continue
		} else {
			seen[once] = true
		}
		l := lane{r.session, m.from, m.session, m.topic, [2]byte{m.qos, r.QoS}}
		if before := last[l]; before != nil && before.n > m.n {
			if !m.doubted && m.sends == 1 {
				t.fail("%s: %.20s after %.20s", p.name, m.payload, before.payload)
			}
			continue
		}
		last[l] = m
	}
}

// judgeRepeats counts the deliveries of each message to a client.
func (t *trial) judgeRepeats(p *player) {
	fresh := map[string]int{}
	onConn := map[string]int{}
	for _, r := range p.receipts {
		m := t.messages[string(r.Payload)]
		switch {
		case r.Retain:
			continue
		case m == nil:
			if !strings.HasPrefix(string(r.Payload), "will-") {
				t.fail("%s: %.20s is from nowhere", p.name, r.Payload)
			}
			continue
		case r.QoS == 2 || !r.Dup:
			fresh[m.payload]++
		}
		conn := fmt.Sprint(r.conn, " ", m.payload)
		onConn[conn]++
		most := m.sends
		if m.qos == 2 {
			most = 1
		}
		if r.QoS == 1 {
			most += t.lossyKills // a broker that lost the acknowledgement sends the message again
		}
		alone := !strings.HasPrefix(p.name, "member") || r.QoS == 2
		if alone && fresh[m.payload] > most || onConn[conn] > most {
			t.fail("%s: %.20s came %d times as new, was sent %d times", p.name, m.payload, fresh[m.payload], m.sends)
		}
	}
}

// judgeMessage compares the clients that received m with the clients that had to.
func (t *trial) judgeMessage(m *publication) {
	members, member := 0, false
	risk := m.large // of a loss that the specification allows
	onlyTwo := true
	for _, p := range t.players {
		got := p.hasReceived(m)
		if got && m.refused && (m.sends == 1 || m.qos == 2) {
			t.fail("%s: %.20s was refused and came", p.name, m.payload)
		}
		if strings.HasPrefix(p.name, "member") {
			for _, r := range p.receipts {
				if string(r.Payload) == m.payload {
					members++
				}
			}
			onlyTwo = onlyTwo && p.filters[0].QoS == 2
			risk = risk || !p.pinned && p.filters[0].QoS == 2 && m.qos == 2 // its own, and lost with its session
			since, have := p.subs[p.filters[0].TopicFilter]
			member = member || p.pinned && have && since < m.first
			continue
		}
		if m.acceptedForGood() && m.qos > 0 && !got && p.mustReceive(m) && !t.mayBeHidden(m) {
			t.fail("%s: %.20s did not come", p.name, m.payload)
		}
	}
	if m.topic[0] != 's' || m.qos == 0 {
		return
	}
	if m.acceptedForGood() && member && members == 0 && !risk && !t.mayBeHidden(m) {
		t.fail("no member got %.20s", m.payload)
	}
	if m.qos == 2 && onlyTwo && members > 1 {
		t.fail("members got %.20s %d times", m.payload, members)
	}
}

// hasReceived reports whether p received m in its current session, or in any if m
// was refused.
func (p *player) hasReceived(m *publication) bool {
	return slices.ContainsFunc(p.receipts, func(r receipt) bool {
		return string(r.Payload) == m.payload && !r.Retain && (m.refused || r.session == p.session)
	})
}

// mustReceive reports whether p was subscribed before m was sent, and still is.
func (p *player) mustReceive(m *publication) bool {
	if m.large && p.maxPacket > 0 {
		return false
	}
	for _, f := range p.filters {
		if since, have := p.subs[f.TopicFilter]; have && since < m.first && f.QoS > 0 && topic.Match(f.TopicFilter, m.topic) {
			return true
		}
	}
	return false
}

// judgeWill counts how often the watcher received w. [MQTT-3.1.2-8]
// [MQTT-3.1.2-10]
func (t *trial) judgeWill(w *willRecord) {
	watcher := t.players[0]
	came := 0
	for _, r := range watcher.receipts {
		if string(r.Payload) == w.payload {
			came++
		}
	}
	since, have := watcher.subs["w/#"]
	switch seen := have && since < w.since; {
	case came > 1:
		t.fail("%s came %d times", w.payload, came)
	case came == 1 && (w.verdict == mustNotCome || w == w.owner.will):
		t.fail("%s came", w.payload)
	case came == 0 && w.verdict == mustCome && seen && w != w.owner.will && !slices.Contains(w.owner.earlierWills, w):
		t.fail("%s did not come", w.payload)
	}
}

// judgeRetained compares the retained messages with the last ones that were
// acknowledged.
func (t *trial) judgeRetained() {
	for _, p := range t.players {
		var last *publication
		for _, m := range t.published {
			if m.retain && m.from == p && m.acceptedForGood() && (last == nil || m.answered > last.answered) {
				last = m
			}
		}
		found := t.store.Retained("r/" + p.name)
		if last == nil || len(found) == 1 && string(found[0].Payload) == last.payload {
			continue
		}
		if len(found) == 1 {
			if m := t.messages[string(found[0].Payload)]; m.last > last.first && (!m.refused || m.sends > 1) {
				continue // it may have been accepted at any time since: a repeated one counts anew
			}
		}
		t.fail("retained for %s is not %.20s", p.name, last.payload)
	}
}
