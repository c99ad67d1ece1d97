package mqtt

import (
	"net"
	"sync"
	"time"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
)

// Renewer lets a client show a renewed credential on the connection that it has,
// by the enhanced authentication of MQTT 5.
type Renewer interface {
	// Method is the Authentication Method by which a client asks for that in
	// CONNECT. The identity has been decided by then, and stays.
	Method() string
	// Renew checks the Authentication Data of an AUTH: that it is a credential of
	// p, and the client's own on the connection nc. It returns when that one ends;
	// the zero time is never. An error ends the connection, and is told the client.
	Renew(nc net.Conn, p Principal, data []byte) (until time.Time, err error)
}

// readAuthMethod notes the Authentication Method of a CONNECT. [MQTT-4.12.0-1]
func (c *conn) readAuthMethod(p *packet.Connect) error {
	o := &p.Properties
	if !o.Has(packet.PropAuthenticationMethod) {
		return nil
	}
	r := c.b.opts.Renewer
	if r == nil || o.AuthenticationMethod != r.Method() || o.Has(packet.PropAuthenticationData) {
		return &refusal{packet.BadAuthenticationMethod, "unknown authentication method, or data where it takes none"}
	}
	c.method = r.Method()
	return nil
}

// handleAuth is re-authentication, in one step. The connection goes on unless that is
// refused, and ends otherwise [MQTT-4.12.1-2].
func (c *conn) handleAuth(flags byte, body []byte) error {
	var p packet.Auth
	if err := p.Decode(c.version, flags, body); err != nil {
		return err
	}
	if err := p.CheckClient(); err != nil {
		return err
	}
	switch {
	case c.method == "":
		return violation("MQTT-4.12.0-7", "AUTH on a connection without an authentication method")
	case p.Properties.AuthenticationMethod != c.method:
		return violation("MQTT-4.12.1-1", "AUTH with another method than CONNECT's")
	case p.ReasonCode != packet.ReAuthenticate:
		return violation("MQTT-4.12.0-3", "AUTH continues an exchange that is not going on")
	}
	until, err := c.b.opts.Renewer.Renew(c.nc, c.principal, p.Properties.AuthenticationData)
	if err != nil {
		c.b.count.deniedLogin.Add(1)
		return &packet.Error{Code: packet.NotAuthorized, Statement: "MQTT-4.12.1-2", Msg: "renewed credential refused: " + err.Error()}
	}
	c.endWithCredential(until)
	c.log().WithField(logfield.Until, until).Info("client renewed its credential")
	ack := &packet.Auth{ReasonCode: packet.Success}
	ack.Properties.SetAuthenticationMethod(c.method) // [MQTT-4.12.0-5]
	c.send(&c.batch, ack)
	return nil
}

// Outlives reports whether a connection stays although its credential has ended:
// p and nc are as in [Renewer]. It is asked at the end and every ten seconds from
// then on, and must not block.
type Outlives func(nc net.Conn, p Principal) bool

// outlivesInterval is the time between two questions to [Options.Outlives].
const outlivesInterval = 10 * time.Second

// endWithCredential ends the connection with the credential that it stands on.
func (c *conn) endWithCredential(until time.Time) {
	if c.lifetime != nil {
		c.lifetime.stop()
		c.lifetime = nil
	}
	if until.IsZero() {
		return
	}
	l, p := new(lifetime), c.principal
	c.lifetime = l
	l.start(time.Until(until), func() {
		if outlives := c.b.opts.Outlives; outlives != nil && outlives(c.nc, p) {
			l.again(outlivesInterval)
			return
		}
		c.end(packet.MaximumConnectTime, "the certificate has ended: connect with the renewed one, or show it by AUTH before")
	})
}

// lifetime is a timer that its own function may start again.
type lifetime struct {
	mu    sync.Mutex // guards timer
	timer *time.Timer
}

func (l *lifetime) start(d time.Duration, f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(d, f)
}

// again starts the timer unless it was stopped.
func (l *lifetime) again(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Reset(d)
	}
}

func (l *lifetime) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer.Stop()
	l.timer = nil
}
