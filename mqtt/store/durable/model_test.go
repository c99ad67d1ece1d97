package durable

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"pgregory.net/rapid"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

// The names that random transactions use, and limits that they pass often.
var (
	modelKeys   = []store.SessionKey{{Identity: "a", ClientID: "1"}, {Identity: "a", ClientID: "2"}, {Identity: "b", ClientID: "1"}}
	modelTopics = []string{"t", "t/1", "t/2", "u"}
	modelPeers  = []string{"rome", "oslo"}
	modelNames  = storetest.Names{
		Peers:  modelPeers,
		Floors: []store.Origin{{Site: "rome"}, {Site: "rome", Lane: 1}, {Site: "oslo"}, {Site: "oslo", Lane: 1}},
		Values: [][2]string{{"f", "1"}, {"f", "2"}, {"f", "3"}},
	}
	modelLimits = store.Limits{
		Queue:    store.QueueLimit{Messages: 6, Bytes: 5000},
		Outbound: store.QueueLimit{Messages: 5, Bytes: 4000},
		Retained: store.QueueLimit{Messages: 3, Bytes: 4000},
		Values:   store.QueueLimit{Messages: 2, Bytes: 100},

		Tombstones: store.QueueLimit{Messages: 2, Bytes: 1 << 20},
	}
)

// transaction is a random one. Its changes are plain data, so that it can be
// made in two stores.
type transaction struct {
	changes []func(store.Tx)
	grows   bool
	waited  bool // it has a callback
}

func (x *transaction) add(tx store.Tx) {
	for _, c := range x.changes {
		c(tx)
	}
}

func drawMessage(t *rapid.T) *store.Message {
	m := &store.Message{
		Topic:   rapid.SampledFrom(modelTopics).Draw(t, "topic"),
		Payload: make([]byte, rapid.SampledFrom([]int{0, 1, 1, 1, 600}).Draw(t, "size")),
		QoS:     byte(rapid.IntRange(0, 2).Draw(t, "qos")),
		Retain:  rapid.Bool().Draw(t, "retain"),
		HLC:     uint64(rapid.IntRange(0, 5).Draw(t, "clock")),
	}
	for i := range m.Payload {
		m.Payload[i] = byte(i)
	}
	if rapid.IntRange(0, 2).Draw(t, "expires") == 0 {
		m.Expires = far.UnixNano()
	}
	if rapid.Bool().Draw(t, "far") {
		m.Origin = store.Origin{Site: "rome", Seq: m.HLC}
	}
	return m
}

func drawTransaction(t *rapid.T) *transaction {
	x := &transaction{waited: rapid.Bool().Draw(t, "waited")}
	for range rapid.IntRange(1, 5).Draw(t, "changes") {
		grows, c := drawChange(t)
		x.changes = append(x.changes, c)
		x.grows = x.grows || grows
	}
	return x
}

func drawChange(t *rapid.T) (grows bool, _ func(store.Tx)) {
	k := rapid.SampledFrom(modelKeys).Draw(t, "session")
	n := rapid.IntRange(1, 12).Draw(t, "number")
	name := fmt.Sprint(n % 3)
	peer := modelPeers[n%2]
	switch rapid.SampledFrom([]string{
		"enqueue", "enqueue", "enqueue", "dequeue", "dequeue", "inflight", "put", "put", "delete", "subscribe", "unsubscribe",
		"receive", "release", "retain", "outbound", "outbound", "acknowledge", "floor", "value", "no value",
	}).Draw(t, "change") {
	case "enqueue":
		d := store.Delivery{Message: drawMessage(t), QoS: 1, Retain: n > 6}
		for i := range n % 3 {
			d.IDs = append(d.IDs, uint32(i))
		}
		return true, func(tx store.Tx) { tx.Enqueue(k, d) }
	case "dequeue":
		return false, func(tx store.Tx) { tx.Dequeue(k, uint64(n)) }
	case "inflight":
		return false, func(tx store.Tx) { tx.Inflight(k, uint64(n), store.Sent{PacketID: uint16(n), Released: n > 6}) }
	case "put":
		s := store.Session{Key: k, Expiry: uint32(n)}
		if n > 9 {
			s.Will, s.WillAt = drawMessage(t), int64(n)
		}
		return false, func(tx store.Tx) { tx.PutSession(s) }
	case "delete":
		return false, func(tx store.Tx) { tx.DeleteSession(k) }
	case "subscribe":
		return true, func(tx store.Tx) { tx.Subscribe(k, store.Subscription{Filter: name, ID: uint32(n), NoLocal: n > 6}) }
	case "unsubscribe":
		return false, func(tx store.Tx) { tx.Unsubscribe(k, name) }
	case "receive":
		return false, func(tx store.Tx) { tx.Receive(k, uint16(n)) }
	case "release":
		return false, func(tx store.Tx) { tx.Release(k, uint16(n)) }
	case "retain":
		m := drawMessage(t)
		return len(m.Payload) > 0, func(tx store.Tx) { tx.Retain(m) }
	case "outbound":
		m := drawMessage(t)
		return true, func(tx store.Tx) { tx.Outbound(peer, m) }
	case "acknowledge":
		return false, func(tx store.Tx) { tx.Acknowledge(peer, uint64(n), 0) }
	case "floor":
		o := store.Origin{Site: peer, Lane: uint16(n % 3 % 2), Epoch: uint64(n), Seq: uint64(n)}
		return true, func(tx store.Tx) { tx.Floor(o) }
	case "value":
		return true, func(tx store.Tx) { tx.PutValue("f", name, []byte{byte(n)}) }
	default:
		return false, func(tx store.Tx) { tx.PutValue("f", name, nil) }
	}
}

// TestLostPower makes random transactions in many goroutines' manner, cuts the power at
// a random callback, and compares the state after the next start with the states of a
// model: it is one of the states after the last callback.
func TestLostPower(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := vfs.NewCrashableMem()
		s := startModel(t, Options{Limits: modelLimits, Cache: rapid.SampledFrom([]int{1, 2000, 0}).Draw(t, "cache"), fs: disk})
		defer s.stop()
		all := rapid.SliceOfN(rapid.Custom(drawTransaction), 1, 40).Draw(t, "transactions")
		cut := rapid.IntRange(0, len(all)-1).Draw(t, "cut")
		unsynced := rapid.SampledFrom([]int{0, 30, 100}).Draw(t, "unsynced")
		seed := rapid.Uint64().Draw(t, "seed")
		var left *vfs.MemFS
		told := -1 // the last transaction whose callback ran before the cut
		for i, x := range all {
			if !x.waited && i < len(all)-1 {
				s.Update(x.add, nil)
				continue
			}
			s.Update(x.add, func(error) {
				if left != nil {
					return
				}
				if told = i; i >= cut {
					left = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rand.New(rand.NewPCG(seed, 0))})
				}
			})
		}
		s.stop()

		again := startModel(t, Options{Limits: modelLimits, Cache: 1, fs: left})
		defer again.stop()
		got := storetest.Dump(again, modelNames)
		if err := again.inOrder(); err != nil {
			t.Fatal(err)
		}
		model := store.NewMemory(modelLimits)
		for i, x := range all {
			model.Update(x.add, nil)
			if i >= told && storetest.Dump(model, modelNames) == got {
				return
			}
		}
		t.Fatalf("transaction %d of %d was told; the store has:\n%s\nit should have:\n%s", told, len(all), got, storetest.Dump(model, modelNames))
	})
}

// recovery tells when a store's disk takes writes again, or that it never will.
type recovery chan string

func (r recovery) Levels() []logrus.Level { return logrus.AllLevels }

func (r recovery) Fire(e *logrus.Entry) error {
	if e.Message == "the disk takes the store's writes again" || strings.Contains(e.Message, "while it ran") {
		r <- e.Message
	}
	return nil
}

func newRecovery() (recovery, logrus.FieldLogger) {
	r := make(recovery, 100)
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.AddHook(r)
	return r, log
}

// faulty is a disk that can refuse writes.
type faulty struct {
	mu    sync.Mutex
	kinds map[errorfs.OpKind]bool // which refuse; nil refuses all that write
	match func(path string) bool
	on    bool
}

func (f *faulty) set(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = on
}

// MaybeError implements errorfs.Injector.
func (f *faulty) MaybeError(op errorfs.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.on || op.Kind.ReadOrWrite() != errorfs.OpIsWrite || f.kinds != nil && !f.kinds[op.Kind] ||
		f.match != nil && !f.match(op.Path) {
		return nil
	}
	return syscall.ENOSPC
}

func (f *faulty) String() string { return "(Faulty)" }

// TestRefusedWrites makes random transactions while the disk refuses writes now and
// then, and compares with a model that makes the acknowledged ones: while the disk
// refuses, after it stopped, after a restart and after a cut.
func TestRefusedWrites(t *testing.T) {
	syncs := map[errorfs.OpKind]bool{errorfs.OpFileSync: true, errorfs.OpFileSyncData: true}
	rapid.Check(t, func(t *rapid.T) {
		disk := vfs.NewCrashableMem()
		fault := &faulty{kinds: rapid.SampledFrom([]map[errorfs.OpKind]bool{nil, syncs}).Draw(t, "kinds")}
		recovered, log := newRecovery()
		o := Options{Limits: modelLimits, Cache: 1, fs: errorfs.Wrap(disk, fault), Log: log, retry: time.Millisecond}
		s := startModel(t, o)
		defer s.stop()
		model := store.NewMemory(modelLimits)
		compare := func(when string, s *running) {
			t.Helper()
			if diff := cmp.Diff(storetest.Dump(model, modelNames), storetest.Dump(s, modelNames)); diff != "" {
				t.Fatalf("%s: %s", when, diff)
			}
			if err := s.inOrder(); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		for range rapid.IntRange(1, 3).Draw(t, "outages") {
			for _, refuse := range []bool{false, true} {
				fault.set(refuse)
				for _, x := range rapid.SliceOfN(rapid.Custom(drawTransaction), 0, 10).Draw(t, "transactions") {
					if !x.waited && !x.grows {
						s.Update(x.add, nil)
						model.Update(x.add, nil)
						continue
					}
					err := storetest.Do(s, x.add)
					if err == nil {
						model.Update(x.add, nil)
					}
				}
				_ = storetest.Do(s, func(store.Tx) {})
				compare(fmt.Sprintf("refused %t", refuse), s)
				if refuse && s.lost() { // also unawaited transactions
					fault.set(false)
					<-recovered
					compare("recovered", s)
				}
			}
		}
		fault.set(false)
		s.stop()
		again := startModel(t, Options{Limits: modelLimits, Cache: 1, fs: disk.CrashClone(vfs.CrashCloneCfg{})})
		compare("after a cut", again)
		again.stop()
	})
}

// inOrder compares the running totals and marks of an idle store with the entries that
// they count.
func (s *Store) inOrder() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var held, queued, queuedBytes, inCache, cached, expire int
	all := make(map[string]*queue)
	for k, x := range s.sessions {
		held += x.Size()
		queued += x.queue.stats.Messages
		queuedBytes += x.queue.stats.Bytes
		all[k.Identity+"/"+k.ClientID] = x.queue
		if x.touched || x.Key != k {
			return fmt.Errorf("session %v: touched %t, key %v", k, x.touched, x.Key)
		}
	}
	for name, p := range s.peers {
		all[name] = p.log
	}
	for name, q := range all {
		var messages, bytes, expires int
		for seq := q.oldest(); seq < q.next; seq++ {
			e := q.at(seq)
			if e == nil {
				continue
			}
			messages++
			bytes += int(e.size)
			if e.expires != 0 {
				expires++
			}
			if e.message != nil {
				inCache++
				cached += int(e.size)
			}
			if _, sent := q.sent[seq]; e.leaving || sent != e.numbered {
				return fmt.Errorf("queue %s: entry %d: leaving %t, sent %t, numbered %t", name, seq, e.leaving, sent, e.numbered)
			}
		}
		for seq := range q.sent {
			if q.at(seq) == nil {
				return fmt.Errorf("queue %s: %d is sent but not there", name, seq)
			}
		}
		if q.visible != q.next || q.staged.Messages != messages || q.staged.Bytes != bytes ||
			q.stats.Messages != messages || q.stats.Bytes != bytes || q.expires != expires || q.closed {
			return fmt.Errorf("queue %s: %d messages, %d bytes, %d expire, but %+v", name, messages, bytes, expires, *q)
		}
	}
	for name, m := range s.tombs {
		if s.staging.tombs.Get(name) != m {
			return fmt.Errorf("tombstone of %s: the committer sees another", name)
		}
	}
	if len(s.tombs) != s.staging.tombs.Len() {
		return fmt.Errorf("%d tombstones, the committer sees %d", len(s.tombs), s.staging.tombs.Len())
	}
	for _, m := range s.retained.All(nil) {
		if m.Expires != 0 {
			expire++
		}
	}
	got := []int{s.held, s.stats.Queued, s.stats.QueuedBytes, s.cache.count, s.cache.bytes, s.retainedExpires}
	if want := []int{held, queued, queuedBytes, inCache, cached, expire}; !slices.Equal(got, want) {
		return fmt.Errorf("held, queued, its bytes, cached, its bytes, retained that expire: %v, want %v", got, want)
	}
	return nil
}

// lost reports whether the store's disk has failed.
func (s *Store) lost() bool { return s.db.Load().Err() != nil }

func startModel(t *rapid.T, o Options) *running {
	s, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	return run(s, func(err error) { t.Error(err) })
}

// far is when messages of random transactions expire, if they do.
var far = time.Unix(4_000_000_000, 0)

// TestBatches commits random batches of transactions without a goroutine, so that
// each is as large as it was drawn. Some fail, and after some the power is cut.
func TestBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := vfs.NewCrashableMem()
		fault := &faulty{}
		o := Options{Limits: modelLimits, Cache: rapid.SampledFrom([]int{1, 2000, 0}).Draw(t, "cache"), fs: errorfs.Wrap(disk, fault)}
		s := openModel(t, o)
		defer func() { _ = s.Close() }()
		model := store.NewMemory(modelLimits)
		for range rapid.IntRange(1, 8).Draw(t, "batches") {
			refuse := rapid.IntRange(0, 2).Draw(t, "refuse") == 0
			fault.set(refuse)
			commitBatch(t, s, model)
			if refuse {
				s.sync() // unsynced batches may have failed since
			}
			if fault.set(false); s.outage != nil {
				if rapid.Bool().Draw(t, "batch in the outage") {
					commitBatch(t, s, model)
				}
				for s.outage != nil { // it may meet the lost database's last deletions
					s.reopen()
				}
			}
			compareModel(t, "after a batch", model, s)
			if rapid.IntRange(0, 3).Draw(t, "cut") == 0 {
				if s.sync(); s.outage != nil {
					t.Fatal(s.outage)
				}
				left := openModel(t, Options{Limits: modelLimits, Cache: 1, fs: disk.CrashClone(vfs.CrashCloneCfg{})})
				compareModel(t, "after a cut", model, left)
				if err := left.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func openModel(t *rapid.T, o Options) *Store {
	s, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// commitBatch commits a random batch, and makes the kept transactions of it in the
// model.
func commitBatch(t *rapid.T, s *Store, model *store.Memory) {
	var jobs []*tx
	var made []func()
	if rapid.IntRange(0, 3).Draw(t, "sweep") == 0 { // the additions of the batch are left to the next sweep
		jobs = append(jobs, &tx{ops: []op{{kind: opSweep, now: far}}})
		made = append(made, func() { model.Sweep(far) })
	}
	for range rapid.IntRange(1, 6).Draw(t, "transactions") {
		j := new(tx)
		x := drawTransaction(t)
		x.add(j)
		if x.waited {
			j.done = func(error) {}
		}
		jobs, made = append(jobs, j), append(made, func() { model.Update(x.add, nil) })
	}
	s.commit(jobs)
	for i, j := range jobs {
		if j.err == nil {
			made[i]()
		}
	}
}

func compareModel(t *rapid.T, when string, model store.Store, s *Store) {
	t.Helper()
	if diff := cmp.Diff(storetest.Dump(model, modelNames), storetest.Dump(s, modelNames)); diff != "" {
		t.Fatalf("%s: %s", when, diff)
	}
	if err := s.inOrder(); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
}
