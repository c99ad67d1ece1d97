package node

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt"
)

// renewer lets MQTT clients show their renewed certificate on the connection that
// they made with the one before.
type renewer struct {
	bundle  func() *identity.Bundle
	revoked func(leaf *x509.Certificate) bool
}

// Method implements mqtt.Renewer.
func (renewer) Method() string { return "hpmq-certificate" }

// Renew implements mqtt.Renewer.
func (r renewer) Renew(nc net.Conn, p mqtt.Principal, data []byte) (time.Time, error) {
	conn, ok := nc.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return time.Time{}, errors.New("not a TLS connection")
	}
	state := conn.ConnectionState()
	id, leaf, err := r.bundle().Proven(&state, data, time.Now())
	switch {
	case err != nil:
		return time.Time{}, err
	case id != p.ID:
		return time.Time{}, fmt.Errorf("the certificate is of %s, this connection of %s", id, p.ID)
	case r.revoked(leaf):
		return time.Time{}, fmt.Errorf("the certificate of %s is revoked", id)
	}
	return leaf.NotAfter, nil
}
