package mqtt

import (
	"sync"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// workspace is the memory of one goroutine that handles the packets of a connection.
// A reader that is a goroutine has one for as long as it reads; an event loop has
// one for all of its connections, so that an idle connection has none.
type workspace struct {
	pub           packet.Publish
	scratch       scratch
	batch         batch
	buf           []byte  // the bytes that were read
	filled        int     // of buf
	roomyReads    int     // reads in a row that did not need a large buffer
	raw           []byte  // the packet in hand, in buf; nil if its content has changed
	chunk         *buffer // of buf, if large messages may be sent from there
	answerAwaited bool    // something else than a PUBLISH of QoS 0 came: its client may wait for an answer
}

// scratch holds the packets of the hot paths: behind an interface they would
// escape to the heap each time.
type scratch struct {
	ack    packet.Puback
	rec    packet.Pubrec
	rel    packet.Pubrel
	answer packet.Pubrel // to a PUBREC
	comp   packet.Pubcomp
}

var workspacePool = sync.Pool{New: func() any { return new(workspace) }}

func getWorkspace(b *Broker) *workspace {
	w := workspacePool.Get().(*workspace)
	w.batch.b = b
	return w
}

// putWorkspace gives a workspace back. Nothing of its batch waits for a flush.
func putWorkspace(w *workspace) {
	w.pub = packet.Publish{}
	w.buf, w.filled, w.roomyReads, w.raw, w.chunk = nil, 0, 0, nil, nil
	w.batch.clean()
	workspacePool.Put(w)
}
