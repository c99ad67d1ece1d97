package link

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/mqtt/store"
)

func (s *site) retains(filter string) []string {
	var all []string
	for _, m := range s.store.Retained(filter) {
		all = append(all, m.Topic+" "+string(m.Payload))
	}
	slices.Sort(all)
	return all
}

func TestRetainedAtInterest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		paris.publish(retained("a/1", "one", 1))
		paris.publish(retained("a/2", "two", 2))
		paris.publish(retained("b", "three", 3))
		synctest.Wait()
		lyon.subscribe("a/1")
		lyon.expect(t, "a/1 one")
		lyon.subscribe("a/#") // overlaps: known messages do not come again
		lyon.expect(t, "a/1 one", "a/2 two")
		if m := lyon.received()[0]; !m.Retain || m.HLC != 1 || m.Origin.Lane != laneRetained {
			t.Errorf("copy is %+v", m)
		}
		paris.publish(retained("a/1", "uno", 4))
		paris.publish(retained("a/2", "", 5))
		lyon.expect(t, "a/1 one", "a/2 two", "a/1 uno", "a/2 ")
		if got := lyon.retains("#"); !slices.Equal(got, []string{"a/1 uno"}) {
			t.Errorf("lyon retains %q", got)
		}
	})
}

func TestRetainedOverCut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("#")
		synctest.Wait()
		paris.publish(retained("x", "1", 1))
		paris.publish(retained("y", "1", 1))
		synctest.Wait()
		w.sever()
		paris.publish(retained("x", "2", 2))
		paris.publish(retained("y", "", 2))
		q0 := retained("z", "0", 3)
		q0.QoS = 0
		paris.publish(q0) // retained: it may not be lost to the cut
		w.heal()
		lyon.expect(t, "x 1", "y 1", "x 2", "y ", "z 0")
		if got := lyon.retains("#"); !slices.Equal(got, []string{"x 2", "z 0"}) {
			t.Errorf("lyon retains %q", got)
		}
		for range 3 {
			w.sever()
			pass(time.Second)
			w.heal()
			synctest.Wait()
		}
		lyon.expect(t, "x 1", "y 1", "x 2", "y ", "z 0")
	})
}

// A copy that another site brought is that site's to send.
func TestRetainedOfOthersStays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		paris.publish(retained("a", "1", 1))
		synctest.Wait()
		w.add("rome", Options{}).subscribe("a")
		synctest.Wait()
		lyon.unsubscribe("a")
		synctest.Wait()
		paris.publish(retained("a", "", 2))
		synctest.Wait()
		paris.subscribe("a")
		w.site("rome").expect(t, "a 1", "a ")
		paris.expect(t)
		if got := paris.retains("#"); got != nil {
			t.Errorf("paris retains %q, which lyon had kept", got)
		}
	})
}

func TestManyRetained(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		paris := w.add("paris", Options{})
		lyon := w.add("lyon", Options{ReceiveMaximum: 100})
		for i := range 5000 {
			paris.publish(retained(fmt.Sprint("r/", i), "v", uint64(i)))
		}
		lyon.subscribe("r/#", "live")
		synctest.Wait()
		paris.publish(message("live", "now", 1))
		synctest.Wait()
		if n := len(lyon.received()); n != 5001 {
			t.Errorf("lyon received %d", n)
		}
		if st := paris.to("lyon"); st.Queued != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

// A cleared message is gone at every site that has a copy: also where there is no
// interest any more, where the clear came only after a cut, and where the log lost it.
// An older copy brings nothing back.
func TestClearReachesEveryCopy(t *testing.T) {
	for _, how := range []string{"no interest", "cut", "overflow", "restart"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				limits := store.Limits{}
				if how == "overflow" {
					limits.Outbound.Messages = 3
				}
				paris := w.add("paris", Options{Store: store.NewMemory(limits)})
				lyon := w.add("lyon", Options{})
				lyon.subscribe("r", "a")
				synctest.Wait()
				paris.publish(retained("r", "kept", clock(1)))
				lyon.expect(t, "r kept")
				want := []string{"r kept"}
				if how == "no interest" {
					lyon.unsubscribe("r")
				}
				synctest.Wait()
				if how != "no interest" {
					w.sever()
					synctest.Wait()
				}
				paris.publish(retained("r", "", clock(2)))
				if how == "overflow" {
					for n := range 3 {
						paris.publish(numbered("a", n))
						want = append(want, fmt.Sprint("a ", n))
					}
				}
				if how == "restart" {
					paris.restart()
				}
				w.heal()
				synctest.Wait()
				if got := lyon.store.Retained("r"); len(got) != 0 {
					t.Fatalf("lyon retains %q", got[0].Payload)
				}
				want = append(want, "r ") // a subscriber learns of the clear
				if got := lyon.texts(); !slices.Equal(got, want) {
					t.Errorf("lyon received %q, want %q", got, want)
				}
				lyon.store.Update(func(tx store.Tx) { tx.Retain(retained("r", "old", clock(1))) }, nil)
				if got := lyon.store.Retained("r"); len(got) != 0 {
					t.Error("an older copy came back")
				}
				if st := lyon.to("paris"); st.Refused != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// A stream repeats tombstones to a store that was not told of them, also to one that
// was set up again. A site without a copy tells no subscriber.
func TestTombstonesAreToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.extra = []Peer{{ID: nodeOf("lyon"), Site: "lyon"}}
		paris := w.add("paris", Options{Store: store.NewMemory(store.Limits{Outbound: store.QueueLimit{Messages: 1}})})
		for n := range 10 {
			paris.publish(retained(fmt.Sprint("r/", n), "", clock(n)))
		}
		lyon := w.add("lyon", Options{})
		lyon.subscribe("#")
		synctest.Wait()
		if n := lyon.store.Stats().Tombstones; n != 10 {
			t.Errorf("lyon knows %d tombstones", n)
		}
		lyon.expect(t, "r/9 ") // the log's
		pass(2 * time.Minute)
		paris.publish(retained("r/late", "", clock(10)))
		again := func() int {
			synctest.Wait()
			sent := paris.to("lyon").Sent
			w.sever()
			synctest.Wait()
			w.heal()
			synctest.Wait()
			return int(paris.to("lyon").Sent - sent)
		}
		if n := []int{again(), again(), again()}; !slices.Equal(n, []int{11, 1, 1}) { // tombstones of the minute before the last
			t.Errorf("%d messages sent on new streams", n)
		}
		lyon.cancel()
		<-lyon.gone
		lyon = w.add("lyon", Options{})
		synctest.Wait()
		if n := lyon.store.Stats().Tombstones; n != 11 {
			t.Errorf("lyon, set up again, knows %d tombstones", n)
		}
	})
}

// clock is a reading of the hybrid logical clock now.
func clock(n int) uint64 { return uint64(time.Now().UnixMilli())<<16 + uint64(n) }
