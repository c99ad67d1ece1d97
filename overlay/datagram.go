package overlay

import (
	"context"
	"fmt"

	"github.com/hpmq/hpmq/identity"
)

// MaxDatagram is the largest payload that [Node.SendDatagram] takes. With the
// channel's byte and QUIC's own it fits a packet of the smallest size.
const MaxDatagram = 1190

// datagramQueue is how many datagrams wait for one congested connection.
const datagramQueue = 64

// channelPing is the overlay's own.
const channelPing = 0

// The first byte of a datagram of channelPing.
const (
	pingNothing = 0 // makes the peer acknowledge it
	pingAsk     = 1
	pingAnswer  = 2
)

// pingSize makes a ping's packet larger than a stateless reset: a peer that lost the
// connection answers with a reset, which must be smaller than the packet.
const pingSize = 32

// A DatagramHandler receives the datagrams of one channel. It must not block; b
// is its own.
type DatagramHandler func(peer identity.ID, b []byte)

// HandleDatagram registers h for a channel, 1 to 255. It must be called before
// [Node.Run].
func (n *Node) HandleDatagram(channel byte, h DatagramHandler) {
	if channel == channelPing {
		panic("overlay: datagram channel 0 is reserved")
	}
	n.datagrams[channel] = h
}

// SendDatagram sends b to peer unreliably and never blocks: a datagram that
// finds its connection congested is dropped and counted, not an error.
func (n *Node) SendDatagram(peer identity.ID, channel byte, b []byte) error {
	if len(b) > MaxDatagram {
		return fmt.Errorf("datagram of %d bytes to %s, at most %d", len(b), peer.Short(), MaxDatagram)
	}
	c := n.newest(peer)
	if c == nil {
		return fmt.Errorf("datagram to %s: %w", peer.Short(), ErrNotConnected)
	}
	packet := make([]byte, 1+len(b))
	packet[0] = channel
	copy(packet[1:], b)
	c.queueDatagram(packet)
	return nil
}

// queueDatagram hands a packet to the connection's sender, which it starts on
// first use: most agents never need one.
func (c *conn) queueDatagram(packet []byte) {
	select {
	case c.datagrams <- packet:
	default:
		c.node.counters.datagramsDropped.Add(1)
		return
	}
	c.node.mu.Lock()
	defer c.node.mu.Unlock()
	if !c.sending && !c.node.closed {
		c.sending = true
		c.node.work.Go(func() { c.sendDatagrams(c.qc.Context()) })
	}
}

// ping makes the peer speak, or tell that it does not know the connection.
func (c *conn) ping() { c.sendPing(pingNothing) }

// ask makes the peer send an answer, which conn.answers counts. An answer proves that
// our packets arrive. Other packets of the peer do not prove it: our congestion window
// may hold up everything that we send.
func (c *conn) ask() { c.sendPing(pingAsk) }

func (c *conn) sendPing(kind byte) {
	packet := make([]byte, pingSize)
	packet[0], packet[1] = channelPing, kind
	c.queueDatagram(packet)
}

func (c *conn) pinged(b []byte) {
	switch {
	case len(b) == 0:
	case b[0] == pingAsk:
		c.sendPing(pingAnswer)
	case b[0] == pingAnswer:
		c.answers.Add(1)
	}
}

// sendDatagrams stands between callers that must not wait and quic-go, which
// makes them wait when its own queue of 32 is full.
func (c *conn) sendDatagrams(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case packet := <-c.datagrams:
			if err := c.qc.SendDatagram(packet); err != nil {
				c.node.counters.datagramsDropped.Add(1)
			} else {
				c.node.counters.datagramsSent.Add(1)
			}
		}
	}
}

func (c *conn) receiveDatagrams(ctx context.Context) {
	for {
		b, err := c.qc.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		if len(b) == 0 {
			continue
		}
		if b[0] == channelPing {
			c.pinged(b[1:])
		} else if h := c.node.datagrams[b[0]]; h != nil {
			h(c.peer, b[1:])
		} else {
			c.node.counters.datagramsDropped.Add(1)
		}
	}
}
