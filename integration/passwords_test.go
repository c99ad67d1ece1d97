package integration

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// addMeter makes meter-3 a sensor with the password "correct horse" at the node
// on h.
func (h *host) addMeter(t *testing.T) {
	t.Helper()
	h.run(t, "sh", "-c", "echo correct horse | "+bin+"/hpmq passwd meter-3 --role sensor")
}

// TestPasswords: a client without a certificate is who its user name says, on
// each listener that takes passwords, and under the same policy.
func TestPasswords(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub", "setpriv")
	lan := newNetwork(t)
	h, other := lan.addHost("paris"), lan.addHost("other")
	node := h.up(t)
	pump := h.enrol(t, h, "pump-7") // brings ca.pem
	copyFile(t, filepath.Join(h.home, "pump-7", "ca.pem"), filepath.Join(other.home, "ca.pem"))
	h.addMeter(t)
	sub := h.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/#", "-v", "-q", "1")
	eventually(t, 10*time.Second, "the subscriber is there", func() bool { return h.status(t).Broker["subscriptions"] > 0 })

	withTLS := func(user, password string, more ...string) []string {
		return append([]string{
			"-h", h.address, "-p", "8883", "--cafile", "ca.pem", "-u", user, "-P", password,
			"-q", "1", "-d", "-t", "site/home/meter-3/raw", "-m", "over-tls",
		}, more...)
	}
	if r := other.try(t, "mosquitto_pub", withTLS("meter-3", "correct horse")...); r.code != 0 {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	sub.waitLine("site/home/meter-3/raw over-tls", 5*time.Second)
	for _, tt := range []struct {
		version, user, password string
		code                    int // of CONNACK, which mosquitto_pub ends with
	}{
		{"5", "meter-3", "wrong horse", 0x86},
		{"5", "meter-4", "correct horse", 0x86},
		{"5", "pump-7", "correct horse", 0x86}, // has a certificate, and no password
		{"5", "service:local", "correct horse", 0x86},
		{"311", "meter-3", "wrong horse", 4},
		{"311", "meter-4", "correct horse", 4},
	} {
		if r := other.try(t, "mosquitto_pub", withTLS(tt.user, tt.password, "-V", tt.version)...); r.code != tt.code {
			t.Errorf("MQTT %s as %s with %q: exit code %d, want %d\n%s%s", tt.version, tt.user, tt.password, r.code, tt.code, r.stdout, r.stderr)
		}
	}
	node.waitLine("device:meter-3: wrong password", 5*time.Second)
	if lines := strings.Join(node.output(), "\n"); strings.Contains(lines, "wrong horse") || strings.Contains(lines, "correct horse") {
		t.Error("the log holds a password")
	}
	if got := h.status(t).Broker["denied_login"]; got != 6 {
		t.Errorf("%d refused logins, want 6", got)
	}

	// On this machine a user name makes a guest, or the node's own user, somebody.
	for _, uid := range []string{"65534", "0"} {
		plain := []string{"-h", "127.0.0.1", "-V", "5", "-q", "1", "-d", "-u", "meter-3", "-t", "site/home/meter-3/raw", "-m", "uid-" + uid}
		if r := h.as(t, uid, "mosquitto_pub", append(plain, "-P", "correct horse")...); r.code != 0 {
			t.Errorf("uid %s: exit code %d\n%s%s", uid, r.code, r.stdout, r.stderr)
		}
		sub.waitLine("raw uid-"+uid, 5*time.Second)
		if r := h.as(t, uid, "mosquitto_pub", append(plain, "-P", "wrong horse")...); r.code != 0x86 {
			t.Errorf("uid %s with a wrong password: exit code %d\n%s%s", uid, r.code, r.stdout, r.stderr)
		}
	}

	// A certificate decides whatever the user name says.
	if r := pump.try(t, "mosquitto_pub", pump.flags(h, "-u", "meter-3", "-P", "wrong horse", "-q", "1", "-t", "site/home/pump-7/raw", "-m", "certified")...); r.code != 0 {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	sub.waitLine("site/home/pump-7/raw certified", 5*time.Second)

	testPasswordTransports(t, h, sub)
}

// testPasswordTransports logs in over WebSocket, and not over QUIC, which takes
// certificates only.
func testPasswordTransports(t *testing.T, h *host, sub *process) {
	conf := h.clientTLS(t)
	conf.Certificates = nil
	login := func(dial func(context.Context, *tls.Config) (net.Conn, error), password, payload string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, err := dial(ctx, conf)
		if err != nil {
			return err
		}
		defer conn.Close()
		c := paho.NewClient(paho.ClientConfig{Conn: packets.NewThreadSafeConn(conn)})
		_, err = c.Connect(ctx, &paho.Connect{
			KeepAlive: 10, CleanStart: true, UsernameFlag: true, Username: "meter-3", PasswordFlag: true, Password: []byte(password),
		})
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		if _, err := c.Publish(ctx, &paho.Publish{Topic: "site/home/meter-3/raw", QoS: 1, Payload: []byte(payload)}); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		return c.Disconnect(&paho.Disconnect{})
	}
	if err := login(h.dialWebSocket, "correct horse", "over-wss"); err != nil {
		t.Error(err)
	}
	sub.waitLine("raw over-wss", 5*time.Second)
	if err := login(h.dialWebSocket, "wrong horse", "never"); err == nil {
		t.Error("a wrong password over WebSocket")
	}
	if err := login(h.dialQUIC, "correct horse", "never"); err == nil {
		t.Error("a password over QUIC")
	}
	if lines := strings.Join(sub.output(), "\n"); strings.Contains(lines, "never") {
		t.Error(lines)
	}
}

// TestPasswordsPerSite: a password is good at the node where it was set, for an
// identity of the whole fabric.
func TestPasswordsPerSite(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	f := newFabric(t)
	set := func(h *host, name string) result {
		return h.try(t, "sh", "-c", "echo correct horse | "+bin+"/hpmq passwd "+name)
	}
	publish := func(h *host) result {
		return h.try(t, "mosquitto_pub", "-h", "127.0.0.1", "-V", "5", "-q", "1", "-u", "meter-3", "-P", "correct horse", "-t", "site/paris/meter-3/raw", "-m", "x")
	}
	set(f.lyon, "meter-3").refused(t, 1, "nobody is called device:meter-3 yet", "on node:"+strings.TrimPrefix(f.paris.status(t).Node, "node:"))
	f.paris.addMeter(t)
	if r := publish(f.paris); r.code != 0 {
		t.Errorf("at paris: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	eventually(t, 10*time.Second, "lyon knows the meter", func() bool {
		_, ok := f.lyon.identity(t, "/device/meter-3")
		return ok
	})
	if r := publish(f.lyon); r.code != 0x86 {
		t.Errorf("at lyon, where no password is set: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	set(f.lyon, "meter-3 --role sensor").refused(t, 2, "only a certificate authority's node gives labels", "without them")
	if r := set(f.lyon, "meter-3"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	if r := publish(f.lyon); r.code != 0 {
		t.Errorf("at lyon: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	sub := f.lyon.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-u", "meter-3", "-P", "correct horse", "-t", "site/paris/meter-3/cmd/x")
	eventually(t, 10*time.Second, "the meter has a session at lyon", func() bool { return f.lyon.status(t).Broker["clients"] == 1 })
	f.paris.run(t, "hpmq", "device", "revoke", "meter-3")
	eventually(t, 10*time.Second, "its session at lyon ends", func() bool { return f.lyon.status(t).Broker["clients"] == 0 })
	sub.stop()
	if r := publish(f.lyon); r.code != 0x86 {
		t.Errorf("a revoked meter at lyon: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// TestLoginStorm: guesses from many clients hold up nobody else, and are cut
// short.
func TestLoginStorm(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub")
	h := newNetwork(t).addHost("paris")
	h.up(t)
	pump := h.enrol(t, h, "pump-7")
	h.addMeter(t)
	const guesses = 500
	answers := make(chan byte, guesses)
	for n := range guesses {
		conn := h.mustDial(t, "127.0.0.1:1883")
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(connectAs(fmt.Sprint("meter-", n%50), "wrong horse")); err != nil {
			t.Fatal(err)
		}
		go func() {
			ack := make([]byte, 4)
			_, _ = conn.Read(ack) // 3.1.1: CONNACK, or nothing
			answers <- ack[3]
		}()
	}
	began := time.Now()
	var waits promptness
	for range 5 {
		start := time.Now()
		pump.mustPub(t, h, "site/home/pump-7/raw", "x")
		waits.add(time.Since(start))
	}
	waits.check(t)
	count := map[byte]int{}
	for range guesses {
		count[<-answers]++
	}
	if count[4] == 0 || count[3] < guesses/2 || count[0] != 0 {
		t.Errorf("answers by return code: %v; want some wrong passwords (4), most not looked at (3)", count)
	}
	t.Logf("answers by return code: %v after %s", count, time.Since(began))
}

// connectAs is a CONNECT of MQTT 3.1.1 with a clean session.
func connectAs(user, password string) []byte {
	body := []byte("\x00\x04MQTT\x04\xc2\x00\x3c\x00\x00")
	for _, s := range []string{user, password} {
		body = binary.BigEndian.AppendUint16(body, uint16(len(s)))
		body = append(body, s...)
	}
	return append([]byte{0x10, byte(len(body))}, body...)
}
