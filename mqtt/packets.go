package mqtt

import (
	"errors"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// errDisconnected is the end of a connection by the client's DISCONNECT.
var errDisconnected = errors.New("client said goodbye")

// handle takes one packet. An error ends the connection.
func (c *conn) handle(h packet.Header, body []byte) error {
	if c.own == nil {
		return c.handleConnect(h, body)
	}
	if c.isClosing() {
		return errClosed // nothing counts any more
	}
	switch h.Type {
	case packet.TypePublish:
		return c.handlePublish(h.Flags, body)
	case packet.TypePuback:
		return c.handlePuback(h.Flags, body)
	case packet.TypePubrec:
		return c.handlePubrec(h.Flags, body)
	case packet.TypePubrel:
		return c.handlePubrel(h.Flags, body)
	case packet.TypePubcomp:
		return c.handlePubcomp(h.Flags, body)
	case packet.TypeSubscribe:
		return c.handleSubscribe(h.Flags, body)
	case packet.TypeUnsubscribe:
		return c.handleUnsubscribe(h.Flags, body)
	case packet.TypePingreq:
		return c.handlePingreq(h.Flags, body)
	case packet.TypeDisconnect:
		return c.handleDisconnect(h.Flags, body)
	case packet.TypeConnect:
		return violation("MQTT-3.1.0-2", "second CONNECT")
	case packet.TypeAuth:
		return c.handleAuth(h.Flags, body)
	case packet.TypeConnack, packet.TypeSuback, packet.TypeUnsuback, packet.TypePingresp:
		return violation("", h.Type.String()+" from a client")
	}
	return violation("", "unknown packet")
}

// answer sends a packet that the client waits for. One that is too large for it
// even without an explanation ends the connection: nothing would tell the client
// that it waits for nothing.
func (c *conn) answer(p packet.Packet) error {
	if c.maxPacket > 0 && !packet.Fit(p, c.version, c.maxPacket) { // [MQTT-3.1.2-24]
		return &packet.Error{
			Code: packet.PacketTooLarge, Statement: "MQTT-3.1.2-24",
			Msg: p.Type().String() + " exceeds the client's maximum packet size",
		}
	}
	c.send(&c.batch, p)
	return nil
}

func (c *conn) handlePingreq(flags byte, body []byte) error {
	var p packet.Pingreq
	if err := p.Decode(c.version, flags, body); err != nil {
		return err
	}
	c.send(&c.batch, &packet.Pingresp{}) // [MQTT-3.12.4-1]
	return nil
}

func (c *conn) handleDisconnect(flags byte, body []byte) error {
	var p packet.Disconnect
	if err := p.Decode(c.version, flags, body); err != nil {
		return err
	}
	if err := p.CheckClient(); err != nil { // [MQTT-3.14.2-1]
		return err
	}
	if p.Properties.Has(packet.PropSessionExpiryInterval) {
		if err := c.own.changeExpiry(p.Properties.SessionExpiryInterval); err != nil {
			return err
		}
	}
	c.graceful = p.ReasonCode == packet.NormalDisconnection // [MQTT-3.14.4-3]
	return errDisconnected
}
