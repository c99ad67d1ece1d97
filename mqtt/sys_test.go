package mqtt

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// statusTopics is what mosquitto 2.0 has below $SYS/broker, but for the bytes of
// payloads, which we do not count.
const statusTopics = `bytes/received
bytes/sent
clients/active
clients/connected
clients/disconnected
clients/expired
clients/inactive
clients/maximum
clients/total
heap/current size
heap/maximum size
load/bytes/received/+
load/bytes/sent/+
load/connections/+
load/messages/received/+
load/messages/sent/+
load/publish/dropped/+
load/publish/received/+
load/publish/sent/+
load/sockets/+
messages/received
messages/sent
messages/stored
publish/messages/dropped
publish/messages/received
publish/messages/sent
retained messages/count
shared_subscriptions/count
store/messages/bytes
store/messages/count
subscriptions/count
uptime
version`

// statusOf returns what a new subscriber to $SYS is told.
func (w *world) statusOf() map[string]string {
	w.t.Helper()
	c := w.connect(packet.V5, "watch")
	c.subscribe(filter("$SYS/#", 0))
	all := map[string]string{}
	for p := c.next(); p != nil; p = c.next() {
		m := p.(*packet.Publish)
		name, _ := strings.CutPrefix(string(m.TopicName), "$SYS/broker/")
		all[name] = string(m.Payload)
	}
	c.bye()
	return all
}

func TestStatusNames(t *testing.T) {
	bubble(t, func(o *Options) { o.Version = "1.2.3" }, func(t *testing.T, w *world) {
		var want, got []string
		for line := range strings.Lines(statusTopics) {
			name := strings.TrimSpace(line)
			if base, ok := strings.CutSuffix(name, "+"); ok {
				want = append(want, base+"1min", base+"5min", base+"15min")
				continue
			}
			want = append(want, name)
		}
		all := w.statusOf()
		for name := range all {
			got = append(got, name)
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if all["version"] != "1.2.3" || all["heap/current size"] == "0" {
			t.Errorf("version %q, heap %q", all["version"], all["heap/current size"])
		}
	})
}

func TestStatusCounts(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		gone := w.connect(packet.V5, "gone", expiry(5))
		gone.bye()
		a, b := w.connect(packet.V5, "a"), w.connect(packet.V5, "b")
		a.subscribe(filter("$share/g/t", 0), filter("t", 0))
		b.subscribe(filter("$share/g/t", 0))
		wait(6 * time.Second)
		got := w.statusOf()
		for name, want := range map[string]string{
			"clients/connected": "3", "clients/expired": "1", "clients/maximum": "3", "clients/total": "3",
			"subscriptions/count": "4", "shared_subscriptions/count": "2",
		} {
			if got[name] != want {
				t.Errorf("%s is %s, want %s", name, got[name], want)
			}
		}
		a.close()
		wait(time.Second)
		if got := w.statusOf()["clients/maximum"]; got != "3" {
			t.Errorf("maximum %s after one left", got)
		}
	})
}

// The averages are mosquitto's: events per minute, forgotten exponentially.
func TestStatusLoad(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		pub := w.connect(packet.V5, "pub")
		for i := range 60 {
			pub.publish("t", fmt.Sprint(i), 0, 0)
		}
		wait(statusInterval + time.Second)
		check := func(ticks float64) {
			t.Helper()
			all := w.statusOf()
			for name, minutes := range map[string]float64{"1min": 1, "5min": 5, "15min": 15} {
				got, err := strconv.ParseFloat(all["load/publish/received/"+name], 64)
				tick := statusInterval.Minutes()
				want := (1 - math.Exp(-tick/minutes)) * 60 / tick * math.Exp(-(ticks-1)*tick/minutes)
				if err != nil || math.Abs(got-want) > 0.01 {
					t.Errorf("%s after %v ticks: %v, want %.2f", name, ticks, got, want)
				}
			}
		}
		check(1)
		wait(statusInterval)
		check(2)
	})
}
