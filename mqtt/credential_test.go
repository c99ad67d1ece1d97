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

// book is a Passwords with the name as the password.
type book struct{ asked []string }

func (k *book) Login(ctx context.Context, name string, password []byte, from string) (identity.ID, error) {
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

func as(name, password string) func(*packet.Connect) {
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
		{"right password", "?", as("pump-7", "pump-7"), "pump-7", [2]packet.ReasonCode{}},
		{"wrong password", "?", as("pump-7", "pump-8"), "", [2]packet.ReasonCode{packet.BadUserNameOrPassword, packet.BadUserNameOrPassword}},
		{"no password", "?", as("pump-7", ""), "", [2]packet.ReasonCode{packet.BadUserNameOrPassword, packet.BadUserNameOrPassword}},
		{"no user name", "?", nil, "", [2]packet.ReasonCode{packet.NotAuthorized, packet.NotAuthorized}},
		{"empty user name", "?", as("", "x"), "", [2]packet.ReasonCode{packet.NotAuthorized, packet.NotAuthorized}},
		{"too often", "?", as("busy", "busy"), "", [2]packet.ReasonCode{packet.ServerUnavailable, packet.ConnectionRateExceeded}},
		{"identity without rights", "?", as("nobody", "nobody"), "", [2]packet.ReasonCode{packet.NotAuthorized, packet.NotAuthorized}},
		{"the listener's, without a user name", "?local", nil, "local", [2]packet.ReasonCode{}},
		{"the listener's, with an empty one", "?local", as("", ""), "local", [2]packet.ReasonCode{}},
		{"instead of the listener's", "?local", as("pump-7", "pump-7"), "pump-7", [2]packet.ReasonCode{}},
		{"wrong instead of the listener's", "?local", as("pump-7", "x"), "", [2]packet.ReasonCode{packet.BadUserNameOrPassword, packet.BadUserNameOrPassword}},
		{"a certificate decides", "cert", as("pump-7", "pump-7"), "cert", [2]packet.ReasonCode{}},
		{"a certificate decides over a wrong password", "cert", as("pump-7", "x"), "cert", [2]packet.ReasonCode{}},
	} {
		for i, v := range versions {
			t.Run(tt.name+" "+v.String(), func(t *testing.T) {
				log, hook := test.NewNullLogger()
				passwords := &book{}
				bubble(t, func(o *Options) { o.Passwords, o.Log = passwords, log }, func(t *testing.T, w *world) {
					w.rules.set(func(r *rules) { r.nobody = []string{"nobody"} })
					c := w.dial(v, tt.listener)
					change := tt.change
					if change == nil {
						change = func(*packet.Connect) {}
					}
					c.send(connectPacket("c", change))
					ack := want[*packet.Connack](c)
					if ack.ReasonCode != tt.want[i] || ack.ReasonCode != 0 != c.ended() {
						t.Fatalf("got %s, want %s", show(ack), tt.want[i])
					}
					sessions := w.b.Sessions()
					if tt.identity == "" {
						if len(sessions) != 0 {
							t.Errorf("sessions %+v", sessions)
						}
						if n := w.counters(); n.DeniedLogin+n.DeniedConnect != 1 {
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
	bubble(t, nil, func(t *testing.T, w *world) {
		c := w.dial(packet.V5, "?")
		c.send(connectPacket("c", as("pump-7", "pump-7")))
		if got := want[*packet.Connack](c); got.ReasonCode != packet.NotAuthorized {
			t.Errorf("got %s", show(got))
		}
	})
}

// A login ends with the broker, and one that hangs holds up nobody.
func TestLoginUnderWay(t *testing.T) {
	bubble(t, func(o *Options) { o.Passwords = &book{} }, func(t *testing.T, w *world) {
		c := w.dial(packet.V5, "?")
		c.send(connectPacket("c", as("slow", "slow")))
		c.silence()
		other := w.connect(packet.V5, "other")
		w.stop()
		want[*packet.Disconnect](other)
		if !c.ended() {
			t.Error("the login outlives the broker")
		}
	})
}
