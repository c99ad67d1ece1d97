package mqtt

import (
	"errors"

	"github.com/hpmq/hpmq/mqtt/packet"
)

var (
	// errJoined ends a reader whose connection an event loop has now.
	errJoined = errors.New("an event loop reads on")

	// errWaits says that the next packet may have to wait, which a loop cannot.
	errWaits = errors.New("the next packet may wait")
)

// sharedLimit is the longest beginning of a packet that a loop copies back to its
// own buffer; a longer one is read where it is.
const sharedLimit = 128 << 10

// waits reports whether to handle a packet may take as long as the store, the
// policy or a password does. A PUBLISH is looked at closely: see conn.handlePublish.
func waits(t packet.Type) bool {
	switch t {
	case packet.TypePublish, packet.TypePuback, packet.TypePubrec, packet.TypePubrel, packet.TypePubcomp,
		packet.TypePingreq, packet.TypeDisconnect:
		return false
	case packet.TypeConnect, packet.TypeConnack, packet.TypeSubscribe, packet.TypeSuback,
		packet.TypeUnsubscribe, packet.TypeUnsuback, packet.TypePingresp, packet.TypeAuth:
		return true
	}
	return true
}

// savePartial copies the beginning of a packet out of the loop's buffer.
func (c *conn) savePartial(b []byte) {
	old := c.partial
	if len(b) == 0 {
		c.partial = nil
		c.chargePartial(0)
		old.freeBuffer()
		return
	}
	if old == nil || cap(old.b) > maxPooled && len(b) <= sharedLimit {
		c.partial = bufferPool.Get().(*buffer)
	}
	c.partial.b = append(c.partial.b[:0], b...)
	c.chargePartial(cap(c.partial.b))
	if c.partial != old {
		old.freeBuffer()
	}
}

// growFor returns all of the buffer, grown for a packet of want bytes as they
// come, never for what a header merely claims.
func (r *buffer) growFor(want int) []byte {
	if size := min(2*len(r.b), want+minReadBuffer); cap(r.b) < size {
		grown := make([]byte, len(r.b), size)
		copy(grown, r.b)
		r.b = grown
	}
	return r.b[:cap(r.b)]
}
