package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// Target is the broker that is measured.
type Target struct {
	// Dial opens one connection, over any transport that carries MQTT there. It is
	// called by several goroutines at once.
	Dial    func(ctx context.Context) (net.Conn, error)
	Version packet.Version

	// Prefix begins the topics and client identifiers; not empty. Two runs at a
	// time need two of them.
	Prefix   string
	UserName string // none if empty
	Password string

	// PID is the broker's process when it is on this machine, to measure its cost; 0
	// leaves that out.
	PID int
}

const handshakePatience = 20 * time.Second

// link is a connection after its handshake, before a loop drives it.
type link struct {
	nc             net.Conn
	r              *bufio.Reader
	receiveMaximum int
	resumed        bool
}

// connect opens a connection and has it accepted. The client identifier is
// Prefix and name.
func (t *Target) connect(ctx context.Context, name string, session sessionKind) (*link, error) {
	nc, err := t.Dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{nc: nc, r: bufio.NewReaderSize(nc, 512)}
	_ = nc.SetDeadline(time.Now().Add(handshakePatience))
	if err := l.handshake(t, name, session); err != nil {
		nc.Close()
		return nil, fmt.Errorf("client %s%s: %w", t.Prefix, name, err)
	}
	return l, nil
}

// sessionKind says whether a session is new and whether it outlives its
// connection.
type sessionKind int

const (
	cleanSession sessionKind = iota
	keptSession
)

func (l *link) handshake(t *Target, name string, session sessionKind) error {
	c := packet.Connect{
		Version: t.Version, ClientID: t.Prefix + name, CleanStart: session == cleanSession,
		UserNameFlag: t.UserName != "", UserName: t.UserName,
		PasswordFlag: t.Password != "", Password: []byte(t.Password),
	}
	c.Properties.SetReceiveMaximum(65535)
	if session == keptSession {
		c.Properties.SetSessionExpiryInterval(3600)
	}
	if _, err := l.nc.Write(c.Append(nil, t.Version)); err != nil {
		return err
	}
	p, err := packet.Read(l.r, t.Version, 1<<16)
	if err != nil {
		return fmt.Errorf("no CONNACK: %w", err)
	}
	ack, ok := p.(*packet.Connack)
	if !ok {
		return fmt.Errorf("the broker answered CONNECT with %v", p.Type())
	}
	if ack.ReasonCode.Failed() {
		return &RefusedError{What: "CONNECT", Code: ack.ReasonCode, Reason: ack.Properties.ReasonString}
	}
	l.receiveMaximum = 65535
	if ack.Properties.Has(packet.PropReceiveMaximum) {
		l.receiveMaximum = int(ack.Properties.ReceiveMaximum)
	}
	l.resumed = ack.SessionPresent
	return nil
}

// RefusedError is a broker's refusal of a part of the load.
type RefusedError struct {
	What   string // the packet, and its topic where there is one
	Code   packet.ReasonCode
	Reason string // the broker's words, if any
}

// Error names the refused request, the code and the reason.
func (e *RefusedError) Error() string {
	text := fmt.Sprintf("the broker refused %s with 0x%02x, %v", e.What, byte(e.Code), e.Code)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// subscribe asks for filters, a few in each packet.
func (l *link) subscribe(t *Target, qos byte, filters []string) error {
	const perPacket = 50
	for i := 0; i < len(filters); i += perPacket {
		q := packet.Subscribe{PacketID: 1}
		for _, f := range filters[i:min(i+perPacket, len(filters))] {
			q.Subscriptions = append(q.Subscriptions, packet.Subscription{TopicFilter: f, QoS: qos})
		}
		_ = l.nc.SetDeadline(time.Now().Add(handshakePatience))
		if _, err := l.nc.Write(q.Append(nil, t.Version)); err != nil {
			return err
		}
		p, err := packet.Read(l.r, t.Version, 1<<16)
		if err != nil {
			return fmt.Errorf("no SUBACK: %w", err)
		}
		ack, ok := p.(*packet.Suback)
		if !ok || len(ack.ReasonCodes) != len(q.Subscriptions) {
			return fmt.Errorf("the broker answered SUBSCRIBE with %v", p.Type())
		}
		for j, code := range ack.ReasonCodes {
			if code != packet.ReasonCode(qos) {
				what := "SUBSCRIBE " + q.Subscriptions[j].TopicFilter
				return &RefusedError{What: what, Code: code, Reason: ack.Properties.ReasonString}
			}
		}
	}
	return nil
}

// leave ends the connection in the way of the specification.
func (l *link) leave(v packet.Version) error {
	_, err := l.nc.Write((&packet.Disconnect{}).Append(nil, v))
	l.nc.Close()
	return err
}

// forget removes the session of a client that was kept.
func (t *Target) forget(ctx context.Context, name string) error {
	l, err := t.connect(ctx, name, cleanSession)
	if err != nil {
		return err
	}
	return l.leave(t.Version)
}
