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

// readStatus subscribes to $SYS and returns the retained values by topic.
func (s *testServer) readStatus() map[string]string {
	s.t.Helper()
	c := s.connect(packet.V5, "watch")
	c.subscribe(subscribeTo("$SYS/#", 0))
	all := map[string]string{}
	for p := c.nextPacket(); p != nil; p = c.nextPacket() {
		m := p.(*packet.Publish)
		name, _ := strings.CutPrefix(string(m.TopicName), "$SYS/broker/")
		all[name] = string(m.Payload)
	}
	c.disconnect()
	return all
}

func TestStatusNames(t *testing.T) {
	runWithServer(t, func(o *Options) { o.Version = "1.2.3" }, func(t *testing.T, srv *testServer) {
		var want, got []string
		for line := range strings.Lines(statusTopics) {
			name := strings.TrimSpace(line)
			if base, ok := strings.CutSuffix(name, "+"); ok {
				want = append(want, base+"1min", base+"5min", base+"15min")
				continue
			}
			want = append(want, name)
		}
		all := srv.readStatus()
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
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		gone := srv.connect(packet.V5, "gone", sessionExpiry(5))
		gone.disconnect()
		a, b := srv.connect(packet.V5, "a"), srv.connect(packet.V5, "b")
		a.subscribe(subscribeTo("$share/g/t", 0), subscribeTo("t", 0))
		b.subscribe(subscribeTo("$share/g/t", 0))
		advanceTime(6 * time.Second)
		got := srv.readStatus()
		for name, want := range map[string]string{
			"clients/connected": "3", "clients/expired": "1", "clients/maximum": "3", "clients/total": "3",
			"subscriptions/count": "4", "shared_subscriptions/count": "2",
		} {
			if got[name] != want {
				t.Errorf("%s is %s, want %s", name, got[name], want)
			}
		}
		a.dropConnection()
		advanceTime(time.Second)
		if got := srv.readStatus()["clients/maximum"]; got != "3" {
			t.Errorf("maximum %s after one left", got)
		}
	})
}

// The averages are mosquitto's: events per minute, forgotten exponentially.
func TestStatusLoad(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		pub := srv.connect(packet.V5, "pub")
		for i := range 60 {
			pub.publish("t", fmt.Sprint(i), 0, 0)
		}
		advanceTime(statusInterval + time.Second)
		check := func(ticks float64) {
			t.Helper()
			all := srv.readStatus()
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
		advanceTime(statusInterval)
		check(2)
	})
}
