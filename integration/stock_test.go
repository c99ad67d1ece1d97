package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMosquitto: Debian's clients over each listener that they support, in both
// versions and all qualities of service.
func TestMosquitto(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	h := newNetwork(t).addHost("paris")
	h.up(t)
	pump := h.enrol(t, h, "pump-7")
	h.addMeter(t)
	for name, tt := range map[string]struct {
		flags  []string
		device string
	}{
		"tcp":                    {[]string{"-h", "127.0.0.1"}, "any"},
		"tcp with a password":    {[]string{"-h", "127.0.0.1", "-u", "meter-3", "-P", "correct horse"}, "meter-3"},
		"unix":                   {[]string{"--unix", filepath.Join(h.home, "hpmq", "mqtt.sock")}, "any"},
		"tls with a certificate": {pump.flags(h), "pump-7"},
		"tls with a password":    {[]string{"-h", h.address, "-p", "8883", "--cafile", "pump-7/ca.pem", "-u", "meter-3", "-P", "correct horse"}, "meter-3"},
		"tls with ALPN":          {pump.flags(h, "--tls-alpn", "mqtt"), "pump-7"},
	} {
		for _, version := range []string{"311", "5"} {
			t.Run(name+" "+version, func(t *testing.T) {
				topic := "site/home/" + tt.device + "/cmd/x"
				flags := append(slices.Clone(tt.flags), "-V", version, "-t", topic)
				sub := h.start(t, "mosquitto_sub", append(slices.Clone(flags), "-q", "2", "-F", "%q %r %p")...)
				h.awaitSubscriptions(t, 1)
				for _, qos := range []string{"0", "1", "2"} {
					h.run(t, "mosquitto_pub", append(slices.Clone(flags), "-q", qos, "-m", "hello")...)
					sub.waitLine(qos+" 0 hello", 10*time.Second)
				}
				h.run(t, "mosquitto_pub", append(slices.Clone(flags), "-q", "1", "-r", "-m", "kept")...)
				r := h.try(t, "mosquitto_sub", append(slices.Clone(flags), "-q", "1", "-F", "%q %r %p", "-C", "1", "-W", "10")...)
				if r.code != 0 || !strings.Contains(r.stdout, "1 1 kept") {
					t.Errorf("retained: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
				}
				h.run(t, "mosquitto_pub", append(slices.Clone(flags), "-q", "1", "-r", "-n")...)
				sub.stop()
				h.awaitSubscriptions(t, 0)
				mortal := h.start(t, "mosquitto_sub", append(slices.Clone(flags), "--will-topic", topic, "--will-payload", "gone", "--will-qos", "1")...)
				watcher := h.start(t, "mosquitto_sub", flags...)
				h.awaitSubscriptions(t, 2)
				mortal.kill()
				watcher.waitLine("gone", 10*time.Second)
				watcher.stop()
				h.awaitSubscriptions(t, 0)
			})
		}
	}
}

// awaitSubscriptions waits until the node on h has n local subscriptions.
func (h *host) awaitSubscriptions(t *testing.T, n int) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprint(n, " subscriptions"), func() bool { return h.status(t).Broker["subscriptions"] == n })
}

// mqttJS returns a directory with MQTT.js and the scenario that drives it.
func mqttJS(t *testing.T) string {
	t.Helper()
	need(t, "node", "node")
	tools, err := filepath.Abs("../.tools/mqttjs/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("clients/mqttjs/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(filepath.Join(tools, "package-lock.json")); err != nil || !bytes.Equal(have, want) {
		if required("node") {
			t.Fatal("HPMQ_REQUIRE lists node, but MQTT.js is not installed as its lock file says: scripts/test-tools")
		}
		t.Skip("MQTT.js is not installed as its lock file says: scripts/test-tools")
	}
	dir := t.TempDir()
	if err := os.Symlink(tools, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	copyFile(t, "clients/mqttjs/scenario.mjs", filepath.Join(dir, "scenario.mjs"))
	return filepath.Join(dir, "scenario.mjs")
}

// TestMQTTJS: MQTT.js over each listener that it supports: qualities of service,
// retained messages, wills, sessions and its own reconnecting.
func TestMQTTJS(t *testing.T) {
	scenario := mqttJS(t)
	h := newNetwork(t).addHost("paris")
	h.up(t)
	h.enrol(t, h, "pump-7")
	h.addMeter(t)
	password := map[string]any{"username": "meter-3", "password": "correct horse"}
	ca := map[string]string{"ca": "pump-7/ca.pem"}
	certificate := map[string]string{"ca": "pump-7/ca.pem", "cert": "pump-7/cert.pem", "key": "pump-7/key.pem"}
	for name, tt := range map[string]struct {
		url     string
		options map[string]any
		files   map[string]string
		device  string
	}{
		"tcp":                    {"mqtt://127.0.0.1:1883", nil, nil, "any"},
		"tcp with a password":    {"mqtt://127.0.0.1:1883", password, nil, "meter-3"},
		"unix":                   {"mqtt+unix://" + filepath.Join(h.home, "hpmq", "mqtt.sock"), nil, nil, "any"},
		"tls with a certificate": {"mqtts://localhost:8883", nil, certificate, "pump-7"},
		"tls with a password":    {"mqtts://" + h.address + ":8883", password, ca, "meter-3"},
		"ws with a password":     {"ws://127.0.0.1:9001/mqtt", password, nil, "meter-3"},
		"wss with a certificate": {"wss://localhost:9001/mqtt", nil, certificate, "pump-7"},
		"wss with a password":    {"wss://" + h.address + ":9001/mqtt", password, ca, "meter-3"},
	} {
		t.Run(name, func(t *testing.T) {
			argument, err := json.Marshal(map[string]any{
				"url": tt.url, "options": tt.options, "files": tt.files, "topic": fmt.Sprintf("site/home/%s/cmd", tt.device),
			})
			if err != nil {
				t.Fatal(err)
			}
			r := h.try(t, "node", scenario, string(argument))
			if r.code != 0 || strings.Count(r.stdout, "ok ") != 10 || !strings.HasSuffix(r.stdout, "done\n") {
				t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
			}
		})
	}
}
