package link

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
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
		lyon.subscribe("a/#") // overlaps: what is known does not come again
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
