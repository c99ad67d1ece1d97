package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/autopaho/queue/memory"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// TestAutopaho: paho's reconnecting client over each listener that it supports.
// The broker is killed in the middle; what was queued meanwhile arrives, and the
// session with its subscription is still there.
func TestAutopaho(t *testing.T) {
	need(t, "netns", "ip")
	for name, tt := range map[string]struct {
		device string
		dial   func(h *host, ctx context.Context, conf *tls.Config) (net.Conn, error)
	}{
		"tcp": {"any", func(h *host, ctx context.Context, _ *tls.Config) (net.Conn, error) {
			return h.dialTCP(ctx, "127.0.0.1:1883")
		}},
		"unix": {"any", func(h *host, ctx context.Context, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(h.home, "hpmq", "mqtt.sock"))
		}},
		"tls":       {"pump-7", (*host).dialTLS},
		"websocket": {"pump-7", (*host).dialWebSocket},
		"quic":      {"pump-7", (*host).dialQUIC},
	} {
		t.Run(name, func(t *testing.T) {
			h := newNetwork(t).addHost("paris")
			node := h.up(t)
			h.enrol(t, h, "pump-7")
			conf := h.clientTLS(t)
			conf.MinVersion = tls.VersionTLS13
			c := h.autopaho(t, func(ctx context.Context) (net.Conn, error) { return tt.dial(h, ctx, conf) })
			topic := "site/home/" + tt.device + "/cmd/x"
			if connack := <-c.up; connack.SessionPresent {
				t.Error("a session that nobody made")
			}
			if _, err := c.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: topic, QoS: 2}}}); err != nil {
				t.Fatal(err)
			}
			publish := func(from, to int) {
				t.Helper()
				for n := from; n < to; n++ {
					p := &autopaho.QueuePublish{Publish: &paho.Publish{Topic: topic, QoS: byte(1 + n%2), Payload: fmt.Append(nil, n)}}
					if err := c.PublishViaQueue(t.Context(), p); err != nil {
						t.Fatal(err)
					}
				}
			}
			publish(0, 20)
			c.want(t, 0, 20)
			node.kill()
			publish(20, 40)
			h.up(t)
			select {
			case connack := <-c.up:
				if !connack.SessionPresent {
					t.Error("the session did not survive the broker's restart")
				}
			case <-time.After(20 * time.Second):
				t.Fatal("autopaho is not back")
			}
			c.want(t, 20, 40)
		})
	}
}

// reconnecting is an autopaho client and what it received.
type reconnecting struct {
	*autopaho.ConnectionManager
	up  chan *paho.Connack
	got chan string
}

// autopaho connects over dial, again and again, until the test ends.
func (h *host) autopaho(t *testing.T, dial func(context.Context) (net.Conn, error)) *reconnecting {
	t.Helper()
	c := &reconnecting{up: make(chan *paho.Connack, 10), got: make(chan string, 1000)}
	u, err := url.Parse("mqtt://node")
	if err != nil {
		t.Fatal(err)
	}
	c.ConnectionManager, err = autopaho.NewConnection(context.WithoutCancel(t.Context()), autopaho.ClientConfig{
		ServerUrls: []*url.URL{u}, KeepAlive: 5, SessionExpiryInterval: 300, ConnectTimeout: 5 * time.Second,
		ReconnectBackoff: autopaho.NewConstantBackoff(100 * time.Millisecond),
		Queue:            memory.New(),
		OnConnectionUp:   func(_ *autopaho.ConnectionManager, ack *paho.Connack) { c.up <- ack },
		AttemptConnection: func(ctx context.Context, _ autopaho.ClientConfig, _ *url.URL) (net.Conn, error) {
			conn, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			return packets.NewThreadSafeConn(conn), nil
		},
		ClientConfig: paho.ClientConfig{
			ClientID: "auto",
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
				c.got <- string(p.Packet.Payload)
				return true, nil
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
		defer cancel()
		_ = c.Disconnect(ctx)
	})
	return c
}

// want waits for the numbers from one to another, each at least once: what was
// cut off between a message and its acknowledgement comes again.
func (c *reconnecting) want(t *testing.T, from, to int) {
	t.Helper()
	missing := map[string]bool{}
	for n := from; n < to; n++ {
		missing[fmt.Sprint(n)] = true
	}
	limit := time.After(20 * time.Second)
	var got []string
	for len(missing) > 0 {
		select {
		case s := <-c.got:
			got = append(got, s)
			delete(missing, s)
		case <-limit:
			t.Fatalf("%d of the numbers %d to %d are missing after %s", len(missing), from, to-1, strings.Join(got, " "))
		}
	}
}
