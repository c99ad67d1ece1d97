package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/packet"
)

// nameIsPassword is a Passwords that accepts a user whose password is the user's
// name.
type nameIsPassword struct{ asked []string }

func (k *nameIsPassword) Login(ctx context.Context, name string, password []byte, from string) (identity.ID, error) {
	k.asked = append(k.asked, name+" from "+from)
	switch {
	case name == "busy":
		return identity.ID{}, fmt.Errorf("%w: five failures", ErrTryLater)
	case name == "slow":
		<-ctx.Done()
		return identity.ID{}, ctx.Err()
	case string(password) != name:
		return identity.ID{}, errors.New("wrong password")
	}
	return testID(name), nil
}

// withPassword sets CONNECT's user name and password.
func withPassword(name, password string) func(*packet.Connect) {
	return func(p *packet.Connect) {
		p.UserNameFlag, p.UserName = true, name
		p.PasswordFlag, p.Password = password != "", []byte(password)
	}
}

func TestLogin(t *testing.T) {
	for _, tt := range []struct {
		name     string
		listener string // who the listener says it is: ? may be changed by a user name
		change   func(*packet.Connect)
		identity string // of the session
		want     [2]packet.ReasonCode
	}{
		{"right password", "?", withPassword("pump-7", "pump-7"), "pump-7", [2]packet.ReasonCode{}},
		{"wrong password", "?", withPassword("pump-7", "pump-8"), "", [2]packet.ReasonCode{packet.BadUserNameOrPassword, packet.BadUserNameOrPassword}},
		{"no password", "?", withPassword("pump-7", ""), "", [2]packet.ReasonCode{packet.BadUserNameOrPassword, packet.BadUserNameOrPassword}},
		{"no user name", "?", nil, "", [2]packet.ReasonCode{packet.NotAuthorized, packet.NotAuthorized}},
		{"empty user name", "?", withPassword("", "x"), "", [2]packet.ReasonCode{packet.NotAuthorized, packet.NotAuthorized}},
		{"too often", "?", withPassword("busy", "busy"), "", [2]packet.ReasonCode{packet.ServerUnavailable, packet.ConnectionRateExceeded}},
		{"identity without rights", "?", withPassword("nobody", "nobody"), "", [2]packet.ReasonCode{packet.NotAuthorized, packet.NotAuthorized}},
		{"the listener's, without a user name", "?local", nil, "local", [2]packet.ReasonCode{}},
		{"the listener's, with an empty one", "?local", withPassword("", ""), "local", [2]packet.ReasonCode{}},
		{"instead of the listener's", "?local", withPassword("pump-7", "pump-7"), "pump-7", [2]packet.ReasonCode{}},
		{"wrong instead of the listener's", "?local", withPassword("pump-7", "x"), "", [2]packet.ReasonCode{packet.BadUserNameOrPassword, packet.BadUserNameOrPassword}},
		{"a certificate decides", "cert", withPassword("pump-7", "pump-7"), "cert", [2]packet.ReasonCode{}},
		{"a certificate decides over a wrong password", "cert", withPassword("pump-7", "x"), "cert", [2]packet.ReasonCode{}},
	} {
		for i, v := range versions {
			t.Run(tt.name+" "+v.String(), func(t *testing.T) {
				log, hook := test.NewNullLogger()
				passwords := &nameIsPassword{}
				runWithServer(t, func(o *Options) { o.Passwords, o.Log = passwords, log }, func(t *testing.T, srv *testServer) {
					srv.denied.change(func(d *denyList) { d.connect = []string{"nobody"} })
					c := srv.dial(v, tt.listener)
					change := tt.change
					if change == nil {
						change = func(*packet.Connect) {}
					}
					c.send(connectPacket("c", change))
					ack := wantPacket[*packet.Connack](c)
					if ack.ReasonCode != tt.want[i] || ack.ReasonCode != 0 != c.closedByServer() {
						t.Fatalf("got %s, want %s", describePacket(ack), tt.want[i])
					}
					sessions := srv.broker.Sessions()
					if tt.identity == "" {
						if len(sessions) != 0 {
							t.Errorf("sessions %+v", sessions)
						}
						if n := srv.counters(); n.DeniedLogin+n.DeniedConnect != 1 {
							t.Errorf("%d refused logins and %d refused clients, want 1", n.DeniedLogin, n.DeniedConnect)
						}
					} else if len(sessions) != 1 || sessions[0].Identity != testID(tt.identity) {
						t.Errorf("sessions %+v, want %s", sessions, tt.identity)
					}
					for _, a := range passwords.asked {
						if !strings.HasSuffix(a, " from 192.0.2.7") {
							t.Errorf("asked for %s", a)
						}
					}
				})
				for _, e := range hook.AllEntries() {
					if line, err := e.String(); err != nil || strings.Contains(line, "pump-8") {
						t.Errorf("the log holds a password: %s", line)
					}
				}
			})
		}
	}
}

// Without a book a user name proves nothing.
func TestLoginWithoutPasswords(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		c := srv.dial(packet.V5, "?")
		c.send(connectPacket("c", withPassword("pump-7", "pump-7")))
		if got := wantPacket[*packet.Connack](c); got.ReasonCode != packet.NotAuthorized {
			t.Errorf("got %s", describePacket(got))
		}
	})
}

// A login ends with the broker, and one that hangs holds up nobody.
func TestLoginUnderWay(t *testing.T) {
	runWithServer(t, func(o *Options) { o.Passwords = &nameIsPassword{} }, func(t *testing.T, srv *testServer) {
		c := srv.dial(packet.V5, "?")
		c.send(connectPacket("c", withPassword("slow", "slow")))
		c.wantNothing()
		other := srv.connect(packet.V5, "other")
		srv.stop()
		wantPacket[*packet.Disconnect](other)
		if !c.closedByServer() {
			t.Error("the login outlives the broker")
		}
	})
}
