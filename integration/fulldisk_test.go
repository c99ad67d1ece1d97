package integration

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

const quotaExceeded = 0x97

// fullDisk is a node whose data lie on a small file system of their own, which
// something else fills.
type fullDisk struct {
	host *host
	dir  string
	pub  *wire
	kept []string // payloads that were acknowledged
	n    int
}

// TestFullDisk fills the disk of a running node, and of one that is killed on it:
// publishers hear of it, nothing that was acknowledged is lost, a subscriber is
// served, and once there is room again everything goes on.
func TestFullDisk(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub")
	h := newNetwork(t).addHost("paris")
	d := &fullDisk{host: h, dir: filepath.Join(h.home, "hpmq")}
	h.net.must("mkdir", "-p", d.dir)
	h.net.must("mount", "-t", "tmpfs", "-o", "mode=0700,size=256m", "tmpfs", d.dir)
	t.Cleanup(func() { h.net.must("umount", d.dir) })
	node := h.up(t)
	sub := h.mustOpenWire(t, persistent("away"))
	if err := sub.subscribe("demo/full", 1); err != nil {
		t.Fatal(err)
	}
	sub.Close()
	d.connect(t)
	for range 2000 { // the log has something that is in no table yet
		d.mustPublish(t, 0)
	}

	d.fill(t, 40<<20) // less than what the store leaves free
	eventually(t, 5*time.Second, "the publisher is refused", func() bool { return d.publish(t) == quotaExceeded })
	node.waitLine("there is no room for the store to grow", 10*time.Second)
	old := h.try(t, "timeout", "2", "mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-t", "demo/full", "-m", "x")
	if old.code != 124 { // of timeout: it waited for PUBACK
		t.Errorf("an MQTT 3.1.1 publisher ended with code %d\n%s", old.code, old.stderr)
	}
	d.empty(t)
	eventually(t, 10*time.Second, "the publisher is served again", func() bool { return d.publish(t) < 0x80 })

	d.fill(t, 0)
	eventually(t, 5*time.Second, "the publisher is refused", func() bool { return d.publish(t) == quotaExceeded })
	node.kill()
	d.fill(t, 0)
	node = h.up(t)
	node.waitLine("is given up", 10*time.Second)
	d.connect(t)
	d.fill(t, 0) // what the start gave back of the log
	eventually(t, 5*time.Second, "the publisher is refused", func() bool { return d.publish(t) == quotaExceeded })
	d.drain(t, 1000)

	d.empty(t)
	eventually(t, 10*time.Second, "the publisher is served again", func() bool { return d.publish(t) < 0x80 })
	node.stop()
	node = h.up(t) // what the subscriber took on the full disk left the queue
	d.drain(t, len(d.kept))
	d.connect(t)
	eventually(t, 10*time.Second, "room for the next start is kept", func() bool {
		_ = d.publish(t)
		var s syscall.Stat_t
		return syscall.Stat(filepath.Join(d.dir, "messages.ballast"), &s) == nil && s.Blocks*512 >= 8<<20
	})
	d.drain(t, len(d.kept))
	if t.Failed() {
		t.Log(strings.Join(node.output(), "\n"))
	}
}

func (d *fullDisk) connect(t *testing.T) {
	t.Helper()
	d.pub = d.host.mustOpenWire(t, packets.Connect{ClientID: "pub", CleanStart: true})
}

// publish sends one message and returns what the acknowledgement says.
func (d *fullDisk) publish(t *testing.T) byte {
	t.Helper()
	d.n++
	payload := fmt.Sprintf("%06d%s", d.n, strings.Repeat("x", 1<<12))
	p, err := d.pub.ask(&packets.Publish{Topic: "demo/full", Payload: []byte(payload), QoS: 1, PacketID: 1, Properties: &packets.Properties{}})
	if err != nil {
		t.Fatal(err)
	}
	ack, ok := p.Content.(*packets.Puback)
	if !ok {
		t.Fatalf("publish: %v", p)
	}
	if ack.ReasonCode < 0x80 {
		d.kept = append(d.kept, payload)
	}
	return ack.ReasonCode
}

func (d *fullDisk) mustPublish(t *testing.T, want byte) {
	t.Helper()
	if code := d.publish(t); code != want {
		t.Fatalf("message %d: code %#x, want %#x", d.n, code, want)
	}
}

// drain reads so many of the kept messages as the subscriber that was away.
func (d *fullDisk) drain(t *testing.T, n int) {
	t.Helper()
	w := d.host.mustOpenWire(t, persistent("away"))
	if !w.present {
		t.Fatal("the session is gone")
	}
	for i, want := range d.kept[:n] {
		p, err := w.next()
		if err != nil {
			t.Fatalf("message %d of %d: %v", i, n, err)
		}
		m, ok := p.Content.(*packets.Publish)
		if !ok || string(m.Payload) != want {
			t.Fatalf("message %d of %d: %.60v, want %.6s", i, n, p, want)
		}
		if err := w.put(&packets.Puback{PacketID: m.PacketID, Properties: &packets.Properties{}}); err != nil {
			t.Fatal(err)
		}
	}
	d.kept = d.kept[n:]
	if err := w.send(&packets.Disconnect{Properties: &packets.Properties{}}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, w.r) // until the broker has taken it
}

// fill takes the room of the file system, but for what is to be left.
func (d *fullDisk) fill(t *testing.T, left int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(d.dir, "fill"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<12); err == nil; {
		var s syscall.Statfs_t
		if e := syscall.Statfs(d.dir, &s); e != nil {
			t.Fatal(e)
		}
		if int64(s.Bavail)*s.Bsize <= left && left > 0 {
			return
		}
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func (d *fullDisk) empty(t *testing.T) {
	t.Helper()
	if err := os.Remove(filepath.Join(d.dir, "fill")); err != nil {
		t.Fatal(err)
	}
}
