package websocket

import (
	"encoding/binary"
	"net"
	"sync"
)

// wire writes frames to the connection below, each as a whole. Data frames come
// from whoever delivers to the client, control frames from the library, which
// writes them where it reads and in Close.
//
// Whoever finds that not all of a frame went has to call wait. Nobody else waits
// for the client: what is written meanwhile is queued for that one.
type wire struct {
	mu       sync.Mutex                            // guards all below
	try      func(b []byte) (done bool, err error) // writes what goes, and keeps the rest of b
	drain    func() error                          // blocks until that rest is written; called without mu
	rested   sync.Cond                             // of mu: draining ended
	queue    [kinds][]byte                         // what try has not seen, in this order
	copied   *[wholeFrame]byte                     // what holds the body, if it was copied
	busy     bool                                  // try kept a rest
	draining bool
	ending   bool  // control frames wait for nobody
	over     bool  // the close frame is the last one
	err      error // of try or drain: nothing more can be written
}

// What the queue has room for: one data frame, since its writer waits for it, the
// latest pong, since it may stand for those before [RFC 6455 §5.5.3], and the
// close frame.
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

// advance writes what is queued until something is stuck. The caller holds mu.
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

// through has all that follows written by others.
func (w *wire) through(try func([]byte) (bool, error), drain func() error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.try, w.drain = try, drain
}

// end makes control wait for nobody any more. It reports whether somebody does.
func (w *wire) end() (stuck bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ending = true
	return w.busy
}
