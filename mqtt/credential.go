package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/packet"
)

// Passwords tells the identity of a client without a certificate.
type Passwords interface {
	// Login returns the identity that name and password of a CONNECT prove, for a
	// client at the address from, without its port. An error refuses the client,
	// with ErrTryLater inside when the password was not looked at; it is for the
	// operator, and the client does not see it. Login may block while ctx lasts.
	Login(ctx context.Context, name string, password []byte, from string) (identity.ID, error)
}

// ErrTryLater tells that a login was refused because of other logins, of this client
// or of others.
var ErrTryLater = errors.New("too many logins")

// login is a pending question to Passwords.
type login func(name string, password []byte) (identity.ID, error)

// prepareLogin prepares the question that a user name in CONNECT will ask, under ctx.
func (c *conn) prepareLogin(ctx context.Context) {
	if !c.principal.Passwords || c.b.opts.Passwords == nil {
		return
	}
	from := c.principal.Remote
	if host, _, err := net.SplitHostPort(from); err == nil {
		from = host
	}
	c.login = func(name string, password []byte) (identity.ID, error) {
		ctx, cancel := context.WithTimeout(ctx, c.b.opts.ConnectTimeout)
		defer cancel()
		return c.b.opts.Passwords.Login(ctx, name, password, from)
	}
}

// authenticate decides the client's identity, where its listener does not know it or
// leaves it to a user name.
func (c *conn) authenticate(p *packet.Connect) error {
	ask := c.login
	c.login = nil
	if ask != nil && p.UserName != "" {
		id, err := ask(p.UserName, p.Password)
		c.principal.ID = id // the zero identity, if refused
		if err != nil {
			c.b.count.deniedLogin.Add(1)
			return fmt.Errorf("login: %w: %w", err, loginRefusal(err))
		}
	}
	if c.principal.ID.IsZero() {
		c.b.count.deniedLogin.Add(1)
		return &refusal{packet.NotAuthorized, "no client certificate: enrol with hpmq-enroll, then give --cert and --key; or a user name and password set with hpmq passwd"}
	}
	return nil
}

// loginRefusal returns the answer to a client.
func loginRefusal(err error) *refusal {
	if errors.Is(err, ErrTryLater) {
		return &refusal{packet.ConnectionRateExceeded, "too many logins, try again later"}
	}
	return &refusal{packet.BadUserNameOrPassword, "wrong user name or password"}
}
