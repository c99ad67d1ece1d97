package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// TestHostileMemory has one client after the other make the broker hold as much
// as it can within its other limits, several times the ceiling: the process stays
// small, whoever is connected is served, and all of it is given back.
func TestHostileMemory(t *testing.T) {
	need(t, "netns", "ip")
	h := newNetwork(t).addHost("paris")
	node := h.up(t, "--limit", "memory=64MiB")
	const most = 320 << 20 // resident: the ceiling, as much again for the garbage collector, and the program
	normal := h.mustOpenWire(t, packets.Connect{ClientID: "normal"})
	long := strings.Repeat("x", 60_000)
	for name, attack := range map[string]func(c *wire, i int) error{
		"topic aliases": func(c *wire, _ int) error {
			for alias := range uint16(32) {
				alias++
				if err := c.put(&packets.Publish{Topic: "demo/" + long, Properties: &packets.Properties{TopicAlias: &alias}}); err != nil {
					return err
				}
			}
			return c.w.Flush()
		},
		"topics": func(c *wire, _ int) error {
			for i := range 64 {
				if err := c.put(&packets.Publish{Topic: fmt.Sprint("demo/", i, long), Properties: &packets.Properties{}}); err != nil {
					return err
				}
			}
			return c.w.Flush()
		},
		"unfinished packets": func(c *wire, _ int) error {
			var whole bytes.Buffer
			p := packets.Publish{Topic: "demo/a", Payload: make([]byte, 1_000_000), Properties: &packets.Properties{}}
			if _, err := p.WriteTo(&whole); err != nil {
				return err
			}
			_, err := c.Write(whole.Bytes()[:999_000])
			return err
		},
		"subscriptions": func(c *wire, _ int) error {
			s := &packets.Subscribe{PacketID: 1, Properties: &packets.Properties{}}
			for i := range 100 {
				s.Subscriptions = append(s.Subscriptions, packets.SubOptions{Topic: fmt.Sprint("demo/", i, strings.Repeat("/a", 190))})
			}
			_, err := c.ask(s)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var crowd []net.Conn
			var waits promptness
			for i := range 250 {
				c, err := h.openWire(packets.Connect{
					ClientID: fmt.Sprint("hostile-", i), WillFlag: true, WillTopic: "demo/will", WillMessage: []byte(long),
					WillProperties: &packets.Properties{},
				})
				if err != nil {
					break // full
				}
				crowd = append(crowd, c)
				if err := attack(c, i); err != nil && !hungUp(err) && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				start := time.Now()
				if p, err := normal.ask(&packets.Pingreq{}); err != nil || p.Type != packets.PINGRESP {
					t.Fatalf("a normal client waited %v for %v, %v", time.Since(start), p, err)
				}
				waits.add(time.Since(start))
			}
			waits.check(t)
			if got := residentBytes(t, node); got > most {
				t.Errorf("the node takes %d MiB, want at most %d", got>>20, most>>20)
			}
			for _, c := range crowd {
				c.Close()
			}
			eventually(t, 20*time.Second, "a new client is served", func() bool {
				c, err := h.openWire(packets.Connect{ClientID: "new"})
				if err != nil {
					return false
				}
				defer c.Close()
				return c.publish("demo/new", "x") == nil
			})
		})
	}
}

// residentBytes is the memory of a program that runs.
func residentBytes(t *testing.T, p *process) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(status))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
