package access

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/hpmq/hpmq/identity"
)

// Dial asks the target's agent, at the other end of carrier, for a connection to
// one of its ports, as the identity of src. The far end of the returned connection
// has proved to be the target, and the connection has a CloseWrite method. A refusal
// is a *[Denied], or wraps [ErrNoService] or [ErrBusy]. Dial owns carrier and closes
// it on error.
func Dial(ctx context.Context, carrier net.Conn, src identity.Source, target identity.ID, network string, port uint16) (net.Conn, error) {
	conn := tls.Client(carrier, identity.ClientConfig(src, []string{Protocol}, target))
	stop := context.AfterFunc(ctx, func() { abort(carrier) })
	err := ask(ctx, conn, target, &request{Network: network, Port: port})
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		abort(carrier)
		return nil, fmt.Errorf("connect to %s/%d of %s: %w", network, port, target.Short(), err)
	}
	return conn, nil
}

// ask makes the handshake and the request, and returns nil when it was allowed.
func ask(ctx context.Context, conn *tls.Conn, target identity.ID, req *request) error {
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	// In TLS 1.3 the client is done before the server has judged it. So an error of
	// the request may be the verdict on our certificate.
	sent := writeFrame(conn, req)
	var a answer
	if err := readFrame(conn, &a); err != nil {
		if alert := (*net.OpError)(nil); errors.As(err, &alert) && alert.Op == "remote error" {
			return &Denied{Target: target, Reason: "it does not accept our certificate, or its clock is wrong: " + alert.Err.Error()}
		}
		return errors.Join(sent, noEOF(err))
	}
	a.Rule, a.Reason = printable(a.Rule), printable(a.Reason)
	switch a.Code {
	case codeAllowed:
		return nil
	case codeDenied, codeUnexposed:
		return &Denied{Target: target, Rule: a.Rule, Reason: a.Reason}
	case codeUnserved:
		return fmt.Errorf("%w: %s", ErrNoService, a.Reason)
	case codeBusy:
		return fmt.Errorf("%w: %s", ErrBusy, a.Reason)
	case codeInvalid:
	}
	return fmt.Errorf("it answers %q: %s", a.Code, a.Reason)
}
