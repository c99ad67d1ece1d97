package websocket

import (
	"encoding/binary"
	"net"
	"sync"
)

// wire writes frames to the connection below, each as a whole. Data frames come from
// the goroutine that delivers to the client. Control frames come from the library,
// which writes them where it reads and in Close.
//
// A writer whose frame did not go as a whole has to call wait. No other writer waits
// for the client: its frames are queued for the one that does.
type wire struct {
	mu       sync.Mutex                            // guards all below
	try      func(b []byte) (done bool, err error) // writes as much as goes, and keeps the rest of b
	drain    func() error                          // blocks until that rest is written; called without mu
	rested   sync.Cond                             // of mu: draining ended
	queue    [kinds][]byte                         // frames that try has not seen, in this order
	copied   *[wholeFrame]byte                     // holds the body, if it was copied
	busy     bool                                  // try kept a rest
	draining bool
	ending   bool  // control does not wait
	over     bool  // the close frame is the last one
	err      error // of try or drain: nothing more can be written
}

// The queue has room for one data frame, since its writer waits for it, for the latest
// pong, since it may stand for the earlier ones [RFC 6455 §5.5.3], and for the close
// frame.
const (
	head = iota
	body
	pong
	bye
	kinds
)

const (
	finalBinary = 0x82
	opcodeMask  = 0x0f
	opcodeClose = 0x08
)

const (
	maxHeader = 10
	// wholeFrame is the size up to which payloads are copied to their header, for
	// one system call and one TLS record. Larger ones may be shared by many clients.
	wholeFrame = 16 << 10
)

var frames = sync.Pool{New: func() any { return new([wholeFrame]byte) }}

// appendHeader appends the header of a data frame of n bytes.
func appendHeader(b []byte, n int) []byte {
	switch {
	case n <= 125:
		return append(b, finalBinary, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, finalBinary, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, finalBinary, 127), uint64(n))
	}
}

// data writes p as one frame. If not all of it goes at once done is false, and
// the caller leaves p alone until wait returned.
func (w *wire) data(p []byte) (done bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.err != nil:
		return false, w.err
	case w.over:
		return false, net.ErrClosed
	}
	if maxHeader+len(p) <= wholeFrame {
		w.copied = frames.Get().(*[wholeFrame]byte)
		w.queue[body] = append(appendHeader(w.copied[:0], len(p)), p...)
	} else {
		w.queue[head], w.queue[body] = appendHeader(nil, len(p)), p
	}
	return w.advance()
}

// control writes a frame of the library. Behind one that is stuck it is queued.
func (w *wire) control(frame []byte) error {
	w.mu.Lock()
	kind := pong
	if frame[0]&opcodeMask == opcodeClose {
		kind, w.over = bye, true
	}
	w.queue[kind] = append([]byte(nil), frame...)
	stuck := w.busy
	done, err := w.advance()
	alone := !done && !stuck && !w.ending
	w.mu.Unlock()
	if err == nil && alone {
		return w.wait()
	}
	return err
}

// advance writes the queue until a frame is stuck. The caller holds mu.
func (w *wire) advance() (done bool, err error) {
	for i := range w.queue {
		b := w.queue[i]
		if b == nil || w.busy || w.err != nil {
			continue
		}
		w.queue[i] = nil
		done, err := w.try(b)
		w.err, w.busy = err, !done && err == nil
	}
	if w.copied != nil && !w.busy && w.err == nil {
		frames.Put(w.copied)
		w.copied = nil
	}
	return !w.busy && w.err == nil, w.err
}

// wait blocks until all is written that is queued.
func (w *wire) wait() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if done, err := w.advance(); done || err != nil {
			return err
		}
		if w.draining {
			w.rested.Wait()
			continue
		}
		w.draining = true
		w.mu.Unlock()
		err := w.drain()
		w.mu.Lock()
		w.draining, w.busy, w.err = false, false, err
		w.rested.Broadcast()
	}
}

// through gives wire the functions that write all later frames.
func (w *wire) through(try func([]byte) (bool, error), drain func() error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.try, w.drain = try, drain
}

// end makes control return without waiting from now on. It reports whether a frame is
// stuck.
func (w *wire) end() (stuck bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ending = true
	return w.busy
}
