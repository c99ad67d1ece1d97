package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// wire is a bare MQTT 5 connection: the test decides what is sent when, and what
// is remembered over the connection's end.
type wire struct {
	net.Conn
	r       *bufio.Reader
	w       *bufio.Writer
	present bool // the broker knew the session
}

// openWire connects a client of the machine's user on the plain listener. What
// connect leaves open is filled in.
func (h *host) openWire(connect packets.Connect) (*wire, error) {
	conn, err := h.dial("127.0.0.1:1883")
	if err != nil {
		return nil, err
	}
	c := &wire{Conn: conn, r: bufio.NewReaderSize(conn, 64<<10), w: bufio.NewWriterSize(conn, 64<<10)}
	connect.ProtocolName, connect.ProtocolVersion = "MQTT", 5
	if connect.Properties == nil {
		connect.Properties = &packets.Properties{}
	}
	if err := c.setDeadline(30 * time.Second); err != nil {
		return nil, err
	}
	p, err := c.ask(&connect)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect %s: %w", connect.ClientID, err)
	}
	ack, ok := p.Content.(*packets.Connack)
	if !ok || ack.ReasonCode != 0 {
		conn.Close()
		return nil, fmt.Errorf("connect %s: %v", connect.ClientID, p)
	}
	c.present = ack.SessionPresent
	return c, nil
}

// mustOpenWire is openWire for clients that the broker serves.
func (h *host) mustOpenWire(t *testing.T, connect packets.Connect) *wire {
	t.Helper()
	c, err := h.openWire(connect)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *wire) setDeadline(d time.Duration) error { return c.SetDeadline(time.Now().Add(d)) }

// put adds packets to what the next flush sends.
func (c *wire) put(all ...io.WriterTo) error {
	for _, p := range all {
		if _, err := p.WriteTo(c.w); err != nil {
			return err
		}
	}
	return nil
}

func (c *wire) send(all ...io.WriterTo) error {
	if err := c.put(all...); err != nil {
		return err
	}
	return c.w.Flush()
}

// next flushes if it has to wait for the next packet.
func (c *wire) next() (*packets.ControlPacket, error) {
	if c.r.Buffered() == 0 {
		if err := c.w.Flush(); err != nil {
			return nil, err
		}
	}
	return packets.ReadPacket(c.r)
}

// ask sends a packet and returns the next one that comes.
func (c *wire) ask(p io.WriterTo) (*packets.ControlPacket, error) {
	if err := c.send(p); err != nil {
		return nil, err
	}
	return c.next()
}

// persistent is a CONNECT of a session that outlives its connection.
func persistent(clientID string) packets.Connect {
	expiry := uint32(24 * 60 * 60)
	return packets.Connect{ClientID: clientID, Properties: &packets.Properties{SessionExpiryInterval: &expiry}}
}

// subscribe asks for one filter and expects that it is granted.
func (c *wire) subscribe(filter string, qos byte) error {
	p, err := c.ask(&packets.Subscribe{
		PacketID: 1, Properties: &packets.Properties{}, Subscriptions: []packets.SubOptions{{Topic: filter, QoS: qos}},
	})
	if err != nil {
		return err
	}
	if ack, ok := p.Content.(*packets.Suback); !ok || len(ack.Reasons) != 1 || ack.Reasons[0] != qos {
		return fmt.Errorf("subscribe to %s: %v", filter, p)
	}
	return nil
}

// publish sends one message of QoS 1 and waits until it is acknowledged.
func (c *wire) publish(topic, payload string) error {
	p, err := c.ask(&packets.Publish{Topic: topic, Payload: []byte(payload), QoS: 1, PacketID: 1, Properties: &packets.Properties{}})
	if err != nil {
		return err
	}
	if ack, ok := p.Content.(*packets.Puback); !ok || ack.ReasonCode >= 0x80 {
		return fmt.Errorf("publish on %s: %v", topic, p)
	}
	return nil
}
