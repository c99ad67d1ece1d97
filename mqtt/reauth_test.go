package mqtt

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/internal/memnet"
	"github.com/hpmq/hpmq/mqtt/packet"
)

// hourly is a Renewer whose credentials are good for an hour.
type hourly struct{}

func (hourly) Method() string { return "hourly" }

func (hourly) Renew(nc net.Conn, p Principal, data []byte) (time.Time, error) {
	switch {
	case nc == nil || p.ID.IsZero():
		return time.Time{}, errors.New("nobody")
	case string(data) == "forever":
		return time.Time{}, nil
	case string(data) != "renewed":
		return time.Time{}, errors.New("stale")
	}
	return time.Now().Add(time.Hour), nil
}

func method(name string) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Properties.SetAuthenticationMethod(name) }
}

func auth(code packet.ReasonCode, method, data string) *packet.Auth {
	p := &packet.Auth{ReasonCode: code}
	if method != "" {
		p.Properties.SetAuthenticationMethod(method)
	}
	if data != "" {
		p.Properties.SetAuthenticationData([]byte(data))
	}
	return p
}

// expiring admits everybody for an hour.
func expiring(nc net.Conn) (Principal, error) {
	p, err := admitTest(nc)
	p.Until = time.Now().Add(time.Hour)
	return p, err
}

func TestReauthentication(t *testing.T) { // [MQTT-4.12.0-5] [MQTT-4.12.1-1] [MQTT-4.12.1-2]
	bubble(t, func(o *Options) { o.Renewer = hourly{} }, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		synctest.Wait() // the listener before this one is served
		l := memnet.Listen()
		w.l = l
		w.done.Go(func() {
			if err := w.b.Serve(ctx, l, expiring); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		silent := w.connect(packet.V311, "silent")
		c, ack := w.connectAck(packet.V5, "c", method("hourly"))
		if ack.Properties.AuthenticationMethod != "hourly" {
			t.Errorf("CONNACK with method %q", ack.Properties.AuthenticationMethod)
		}
		for range 3 {
			wait(50 * time.Minute)
			c.send(auth(packet.ReAuthenticate, "hourly", "renewed"))
			if got := want[*packet.Auth](c); got.ReasonCode != packet.Success || got.Properties.AuthenticationMethod != "hourly" {
				t.Errorf("got %+v", got)
			}
		}
		if !silent.ended() {
			t.Error("a connection outlived its credential")
		}
		wait(61 * time.Minute)
		if got := want[*packet.Disconnect](c); got.ReasonCode != packet.MaximumConnectTime {
			t.Errorf("got %s", show(got))
		}

		c = w.connect(packet.V5, "c", method("hourly"))
		c.send(auth(packet.ReAuthenticate, "hourly", "forever"))
		want[*packet.Auth](c)
		wait(100 * time.Hour)
		c.silence()
		c.close()
		w.connect(packet.V5, "gone", method("hourly")).bye() // leaves no timer behind
	})
}

// A connection stays beyond its credential's end while Outlives says so.
func TestOutlives(t *testing.T) {
	var stays atomic.Bool
	stays.Store(true)
	outlives := func(nc net.Conn, p Principal) bool {
		if nc == nil || p.ClientID == "" {
			t.Error("asked about nobody")
		}
		return stays.Load()
	}
	bubble(t, func(o *Options) { o.Outlives = outlives }, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		synctest.Wait() // the listener before this one is served
		l := memnet.Listen()
		w.l = l
		w.done.Go(func() {
			if err := w.b.Serve(ctx, l, expiring); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		c, leaves := w.connect(packet.V5, "c"), w.connect(packet.V5, "leaves")
		wait(2 * time.Hour)
		leaves.bye() // leaves no timer behind
		c.send(&packet.Pingreq{})
		want[*packet.Pingresp](c)
		stays.Store(false)
		wait(outlivesInterval)
		if got := want[*packet.Disconnect](c); got.ReasonCode != packet.MaximumConnectTime {
			t.Errorf("got %s", show(got))
		}
	})
}

func TestReauthenticationIsRefused(t *testing.T) { // [MQTT-4.12.0-1] [MQTT-4.12.0-7]
	bubble(t, func(o *Options) { o.Renewer = hourly{} }, func(t *testing.T, w *world) {
		for _, change := range []func(*packet.Connect){
			method("other"),
			func(p *packet.Connect) { method("hourly")(p); p.Properties.SetAuthenticationData([]byte("x")) },
		} {
			if _, ack := w.connectAck(packet.V5, "c", change); ack.ReasonCode != packet.BadAuthenticationMethod {
				t.Errorf("got %s", show(ack))
			}
		}
		for _, tt := range []struct {
			name string
			with []func(*packet.Connect)
			send *packet.Auth
			want packet.ReasonCode
		}{
			{"stale", []func(*packet.Connect){method("hourly")}, auth(packet.ReAuthenticate, "hourly", "stale"), packet.NotAuthorized},
			{"no data", []func(*packet.Connect){method("hourly")}, auth(packet.ReAuthenticate, "hourly", ""), packet.NotAuthorized},
			{"other method", []func(*packet.Connect){method("hourly")}, auth(packet.ReAuthenticate, "other", "renewed"), packet.ProtocolError},
			{"no exchange", []func(*packet.Connect){method("hourly")}, auth(packet.ContinueAuthentication, "hourly", "renewed"), packet.ProtocolError},
			{"success", []func(*packet.Connect){method("hourly")}, auth(packet.Success, "hourly", "renewed"), packet.ProtocolError},
			{"no method", nil, auth(packet.ReAuthenticate, "hourly", "renewed"), packet.ProtocolError},
		} {
			c := w.connect(packet.V5, "c", tt.with...)
			c.send(tt.send)
			if got := want[*packet.Disconnect](c); got.ReasonCode != tt.want {
				t.Errorf("%s: %s", tt.name, show(got))
			}
			if !c.ended() {
				t.Errorf("%s: the connection stays", tt.name)
			}
		}
	})
}
