package integration

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDenied: every refusal reaches the identity that it is about, in every
// version and quality of service, and no other.
func TestDenied(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	net := newNetwork(t)
	h, dev := net.addHost("paris"), net.addHost("device")
	h.up(t)
	pump, valve := dev.enrol(t, h, "pump-7"), dev.enrol(t, h, "valve")
	mine := dev.start(t, "stdbuf", append([]string{"-oL", "mosquitto_sub"}, pump.flags(h, "-d", "-t", "$hpmq/me/denied")...)...)
	theirs := dev.start(t, "stdbuf", append([]string{"-oL", "mosquitto_sub"}, valve.flags(h, "-d", "-V", "5", "-t", "$hpmq/me/denied")...)...)
	mine.waitLine("): 0", 10*time.Second) // subscribed
	theirs.waitLine("): 0", 10*time.Second)

	var want []string
	for _, version := range []string{"311", "5"} {
		for _, qos := range []string{"0", "1"} {
			topic := "site/home/valve/set/" + version + "/" + qos
			dev.run(t, "mosquitto_pub", pump.flags(h, "-V", version, "-q", qos, "-t", topic, "-m", "open")...)
			want = append(want, "publish "+topic+" "+qos)
		}
		code := map[string]string{"311": "): 128", "5": "): 135"}[version]
		r := dev.try(t, "mosquitto_sub", pump.flags(h, "-V", version, "-d", "-W", "2", "-t", "site/home/#")...)
		if !strings.Contains(r.stdout, code) {
			t.Errorf("version %s: SUBACK without %q:\n%s%s", version, code, r.stdout, r.stderr)
		}
		want = append(want, "subscribe site/home/# 0")
		exit := map[string]int{"311": 5, "5": 135}[version] // what CONNACK said
		r = dev.try(t, "mosquitto_pub", pump.flags(h, "-V", version, "-t", "site/home/pump-7/x", "-m", "x",
			"--will-topic", "site/home/valve/set", "--will-payload", "open")...)
		if r.code != exit {
			t.Errorf("version %s: a forbidden will: exit code %d, want %d\n%s%s", version, r.code, exit, r.stdout, r.stderr)
		}
		want = append(want, "will site/home/valve/set 0")
	}
	mine.wait(5*time.Second, "all refusals", func(lines []string) bool { return len(notices(lines)) >= len(want) })
	var got []string
	for _, line := range notices(mine.output()) {
		var n struct {
			Action, Topic, Filter, Reason string
			QoS                           int
		}
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		got = append(got, n.Action+" "+n.Topic+n.Filter+" "+string('0'+rune(n.QoS)))
		if !strings.Contains(n.Reason, `"sensor" main.hcl:`) {
			t.Errorf("the reason names no grant: %s", line)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("refusals\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	valve.pub(t, h, "site/home/pump-7/raw", "x")
	theirs.waitLine("site/home/pump-7/raw", 5*time.Second)
	if n := len(notices(theirs.output())); n != 1 {
		t.Errorf("another identity reads %d refusals, want its own one", n)
	}
	if r := pump.pub(t, h, "$hpmq/me/denied", "x"); !strings.Contains(r.stdout, "RC:135") {
		t.Errorf("a client may publish a refusal:\n%s", r.stdout)
	}
}

// notices leaves out what mosquitto_sub -d says besides.
func notices(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return !strings.HasPrefix(line, "{") })
}

// TestRetainedAtOtherSite: a value that was set before anybody at the other site
// asked is there for the first who does.
func TestRetainedAtOtherSite(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	f := newFabric(t)
	pump := f.net.addHost("device").enrol(t, f.paris, "pump-7")
	pump.run(t, "mosquitto_pub", pump.flags(f.paris, "-q", "1", "-r", "-t", "site/paris/pump-7/state", "-m", "on")...)
	f.lyon.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/#", "-v").waitLine("site/paris/pump-7/state on", 10*time.Second)
	pump.run(t, "mosquitto_pub", pump.flags(f.paris, "-q", "1", "-r", "-t", "site/paris/pump-7/state", "-m", "off")...)
	eventually(t, 10*time.Second, "a later subscriber gets the newest", func() bool {
		r := f.lyon.try(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/paris/+/state", "-C", "1", "-W", "1")
		return r.stdout == "off\n"
	})
}
