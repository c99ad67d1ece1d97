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

// hourlyAuth is a Renewer whose credentials are good for an hour.
type hourlyAuth struct{}

func (hourlyAuth) Method() string { return "hourly" }

func (hourlyAuth) Renew(nc net.Conn, p Principal, data []byte) (time.Time, error) {
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

// authMethod sets CONNECT's Authentication Method.
func authMethod(name string) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Properties.SetAuthenticationMethod(name) }
}

// authPacket returns an AUTH packet.
func authPacket(code packet.ReasonCode, method, data string) *packet.Auth {
	p := &packet.Auth{ReasonCode: code}
	if method != "" {
		p.Properties.SetAuthenticationMethod(method)
	}
	if data != "" {
		p.Properties.SetAuthenticationData([]byte(data))
	}
	return p
}

// admitForAnHour is admitTest with credentials that expire after an hour.
func admitForAnHour(nc net.Conn) (Principal, error) {
	p, err := admitTest(nc)
	p.Until = time.Now().Add(time.Hour)
	return p, err
}

func TestReauthentication(t *testing.T) { // [MQTT-4.12.0-5] [MQTT-4.12.1-1] [MQTT-4.12.1-2]
	runWithServer(t, func(o *Options) { o.Renewer = hourlyAuth{} }, func(t *testing.T, srv *testServer) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		synctest.Wait() // the listener before this one is served
		l := memnet.Listen()
		srv.listener = l
		srv.done.Go(func() {
			if err := srv.broker.Serve(ctx, l, admitForAnHour); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		silent := srv.connect(packet.V311, "silent")
		c, ack := srv.connectAck(packet.V5, "c", authMethod("hourly"))
		if ack.Properties.AuthenticationMethod != "hourly" {
			t.Errorf("CONNACK with method %q", ack.Properties.AuthenticationMethod)
		}
		for range 3 {
			advanceTime(50 * time.Minute)
			c.send(authPacket(packet.ReAuthenticate, "hourly", "renewed"))
			if got := wantPacket[*packet.Auth](c); got.ReasonCode != packet.Success || got.Properties.AuthenticationMethod != "hourly" {
				t.Errorf("got %+v", got)
			}
		}
		if !silent.closedByServer() {
			t.Error("a connection outlived its credential")
		}
		advanceTime(61 * time.Minute)
		if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.MaximumConnectTime {
			t.Errorf("got %s", describePacket(got))
		}

		c = srv.connect(packet.V5, "c", authMethod("hourly"))
		c.send(authPacket(packet.ReAuthenticate, "hourly", "forever"))
		wantPacket[*packet.Auth](c)
		advanceTime(100 * time.Hour)
		c.wantNothing()
		c.dropConnection()
		srv.connect(packet.V5, "gone", authMethod("hourly")).disconnect() // leaves no timer behind
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
	runWithServer(t, func(o *Options) { o.Outlives = outlives }, func(t *testing.T, srv *testServer) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		synctest.Wait() // the listener before this one is served
		l := memnet.Listen()
		srv.listener = l
		srv.done.Go(func() {
			if err := srv.broker.Serve(ctx, l, admitForAnHour); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		c, leaves := srv.connect(packet.V5, "c"), srv.connect(packet.V5, "leaves")
		advanceTime(2 * time.Hour)
		leaves.disconnect() // leaves no timer behind
		c.send(&packet.Pingreq{})
		wantPacket[*packet.Pingresp](c)
		stays.Store(false)
		advanceTime(outlivesInterval)
		if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.MaximumConnectTime {
			t.Errorf("got %s", describePacket(got))
		}
	})
}

func TestReauthenticationIsRefused(t *testing.T) { // [MQTT-4.12.0-1] [MQTT-4.12.0-7]
	runWithServer(t, func(o *Options) { o.Renewer = hourlyAuth{} }, func(t *testing.T, srv *testServer) {
		for _, change := range []func(*packet.Connect){
			authMethod("other"),
			func(p *packet.Connect) { authMethod("hourly")(p); p.Properties.SetAuthenticationData([]byte("x")) },
		} {
			if _, ack := srv.connectAck(packet.V5, "c", change); ack.ReasonCode != packet.BadAuthenticationMethod {
				t.Errorf("got %s", describePacket(ack))
			}
		}
		for _, tt := range []struct {
			name string
			with []func(*packet.Connect)
			send *packet.Auth
			want packet.ReasonCode
		}{
			{"stale", []func(*packet.Connect){authMethod("hourly")}, authPacket(packet.ReAuthenticate, "hourly", "stale"), packet.NotAuthorized},
			{"no data", []func(*packet.Connect){authMethod("hourly")}, authPacket(packet.ReAuthenticate, "hourly", ""), packet.NotAuthorized},
			{"other method", []func(*packet.Connect){authMethod("hourly")}, authPacket(packet.ReAuthenticate, "other", "renewed"), packet.ProtocolError},
			{"no exchange", []func(*packet.Connect){authMethod("hourly")}, authPacket(packet.ContinueAuthentication, "hourly", "renewed"), packet.ProtocolError},
			{"success", []func(*packet.Connect){authMethod("hourly")}, authPacket(packet.Success, "hourly", "renewed"), packet.ProtocolError},
			{"no method", nil, authPacket(packet.ReAuthenticate, "hourly", "renewed"), packet.ProtocolError},
		} {
			c := srv.connect(packet.V5, "c", tt.with...)
			c.send(tt.send)
			if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != tt.want {
				t.Errorf("%s: %s", tt.name, describePacket(got))
			}
			if !c.closedByServer() {
				t.Errorf("%s: the connection stays", tt.name)
			}
		}
	})
}
