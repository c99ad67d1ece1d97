package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

const (
	flipsEnv = "HPMQ_DAMAGE_FLIPS" // of each kind of file
	flipSeed = "HPMQ_DAMAGE_SEED"

	damageMessages = 4000
)

// damage is a killed node's store, and what it acknowledged.
type damage struct {
	host     *host
	dir      string // of the store
	pristine string // a copy
	outcomes map[string]int
}

// TestDamage flips a bit of a killed node's store, in each kind of its files, and
// starts the node: either it says in one line what is damaged and what to do, or
// it serves what is left. What is missing then is reported, and nothing that it
// serves is wrong.
func TestDamage(t *testing.T) {
	need(t, "netns", "ip")
	flips, seed := setting(t, flipsEnv, 4), setting(t, flipSeed, rand.Uint64()>>1)
	t.Logf("%s=%d %s=%d", flipsEnv, flips, flipSeed, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	d := newDamage(t)
	for _, kind := range []string{".sst", ".log", "MANIFEST", "OPTIONS"} {
		for range flips {
			d.restore(t)
			file, at, bit := d.pick(t, kind, rng)
			d.flip(t, file, at, bit)
			d.start(t, kind, fmt.Sprintf("%s, byte %d, bit %d", filepath.Base(file), at, bit))
			if t.Failed() {
				return
			}
		}
	}
	for _, outcome := range slices.Sorted(maps.Keys(d.outcomes)) {
		t.Logf("%4d %s", d.outcomes[outcome], outcome)
	}
}

// newDamage makes a store with tables and a log, of a node that was killed.
func newDamage(t *testing.T) *damage {
	t.Helper()
	h := newNetwork(t).addHost("paris")
	d := &damage{host: h, dir: filepath.Join(h.home, "hpmq", "messages"), pristine: filepath.Join(t.TempDir(), "pristine"), outcomes: map[string]int{}}
	for part := range 4 {
		node := h.up(t) // the log becomes a table
		if part == 0 {
			w := h.mustOpenWire(t, persistent("away"))
			if err := w.subscribe("demo/damage/#", 1); err != nil {
				t.Fatal(err)
			}
			w.Close()
		}
		w := h.mustOpenWire(t, packets.Connect{ClientID: "pub", CleanStart: true})
		for n := range damageMessages / 4 {
			if err := w.publish("demo/damage/n", d.payload(part*damageMessages/4+n)); err != nil {
				t.Fatal(err)
			}
		}
		node.kill()
	}
	if err := os.CopyFS(d.pristine, os.DirFS(d.dir)); err != nil {
		t.Fatal(err)
	}
	return d
}

// payload is a number and what follows from it, too much to be compressed away.
func (d *damage) payload(n int) string {
	rng := rand.New(rand.NewPCG(uint64(n), 0))
	b := strconv.AppendInt(nil, int64(n), 10)
	for b = append(b, ' '); len(b) < 300; {
		b = append(b, 'a'+byte(rng.IntN(26)))
	}
	return string(b)
}

// restore puts the store back as the kill left it.
func (d *damage) restore(t *testing.T) {
	t.Helper()
	old, err := filepath.Glob(d.dir + ".damaged-*")
	for _, dir := range append(old, d.dir) {
		if err == nil {
			err = os.RemoveAll(dir)
		}
	}
	if err == nil {
		err = os.CopyFS(d.dir, os.DirFS(d.pristine))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// pick chooses a bit of a file of a kind.
func (d *damage) pick(t *testing.T, kind string, rng *rand.Rand) (file string, at int64, bit uint) {
	t.Helper()
	names, err := os.ReadDir(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int64
	var files []string
	for _, n := range names {
		info, err := n.Info()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(n.Name(), kind) && !strings.HasPrefix(n.Name(), "marker") && info.Size() > 0 {
			files, sizes = append(files, filepath.Join(d.dir, n.Name())), append(sizes, info.Size())
		}
	}
	if len(files) == 0 {
		t.Fatalf("no %s in %v", kind, names)
	}
	i := rng.IntN(len(files))
	return files[i], rng.Int64N(sizes[i]), uint(rng.IntN(8))
}

func (d *damage) flip(t *testing.T, file string, at int64, bit uint) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err == nil {
		content[at] ^= 1 << bit
		err = os.WriteFile(file, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// start starts the node on the damaged store and looks at what it has.
func (d *damage) start(t *testing.T, kind, what string) {
	t.Helper()
	node := d.host.start(t, "hpmq", "up")
	defer node.stop()
	ready := false
	node.wait(20*time.Second, "it serves or says what to do", func(lines []string) bool {
		has := func(part string) bool {
			return slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, part) })
		}
		ready = has("ready in")
		return ready || has("hint: ")
	})
	output := strings.Join(node.output(), "\n")
	if !ready {
		if !strings.Contains(output, "restore that directory from a backup") || strings.Contains(output, "goroutine") {
			t.Errorf("%s: no line says what to do:\n%s", what, output)
		}
		d.outcomes[kind+": does not start and says what to do"]++
		return
	}
	left := d.read(t, what)
	output = strings.Join(node.output(), "\n")
	reported := strings.Contains(output, "damaged")
	switch {
	case left < damageMessages && !reported:
		t.Errorf("%s: %d of %d messages, and nothing said:\n%s", what, left, damageMessages, output)
	case left < damageMessages:
		d.outcomes[kind+": serves what is left and says so"]++
	case reported:
		d.outcomes[kind+": serves all and says that a file is damaged"]++
	default:
		d.outcomes[kind+": serves all"]++
	}
}

// read returns how many of the messages are there, all of them whole and in
// order.
func (d *damage) read(t *testing.T, what string) int {
	t.Helper()
	w := d.host.mustOpenWire(t, persistent("away"))
	defer w.Close()
	if !w.present {
		return 0
	}
	if err := w.send(&packets.Publish{Topic: "demo/damage/end", QoS: 1, PacketID: 1, Properties: &packets.Properties{}}); err != nil {
		t.Fatal(err)
	}
	left, last := 0, -1
	for {
		p, err := w.next()
		if err != nil {
			t.Fatalf("%s: after message %d: %v", what, last, err)
		}
		m, ok := p.Content.(*packets.Publish)
		if !ok {
			continue
		}
		if m.Topic == "demo/damage/end" {
			return left
		}
		number, _, _ := strings.Cut(string(m.Payload), " ")
		n, err := strconv.Atoi(number)
		if err != nil || n <= last || string(m.Payload) != d.payload(n) {
			t.Errorf("%s: message %q after %d", what, m.Payload, last)
		}
		left, last = left+1, n
		if err := w.put(&packets.Puback{PacketID: m.PacketID, Properties: &packets.Properties{}}); err != nil {
			t.Fatal(err)
		}
	}
}
