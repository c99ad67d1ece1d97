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

// channelPing is handled by nobody, and makes the peer acknowledge it.
const channelPing = 0

// pingSize makes the packet of a ping larger than a stateless reset, which is
// what a peer that lost the connection must answer with something smaller.
const pingSize = 32

// A DatagramHandler receives the datagrams of one channel. It must not block or
// keep b after it returns unless it copies it.
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

// ping makes the peer answer, or tell that it does not know the connection.
func (c *conn) ping() {
	packet := make([]byte, pingSize)
	packet[0] = channelPing
	c.queueDatagram(packet)
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
		if len(b) == 0 || b[0] == channelPing {
			continue
		}
		if h := c.node.datagrams[b[0]]; h != nil {
			h(c.peer, b[1:])
		} else {
			c.node.counters.datagramsDropped.Add(1)
		}
	}
}
