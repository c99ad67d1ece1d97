package access

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// spliceBuffer is the size of one read in one direction of a splice: two TLS records.
const spliceBuffer = 32 << 10

var buffers = sync.Pool{New: func() any { return new([spliceBuffer]byte) }}

// Splice copies between a and b both ways until both have ended, and closes
// them. The end of one direction is passed on as a half close. An error in
// either direction, or the end of ctx, aborts both at once, so that neither end
// takes a part of the data for all of it.
func Splice(ctx context.Context, a, b net.Conn) error {
	return splice(ctx, a, b, new(atomic.Int64), new(atomic.Int64))
}

// splice also counts the bytes that went from a to b and from b to a.
func splice(ctx context.Context, a, b net.Conn, toB, toA *atomic.Int64) error {
	stop := context.AfterFunc(ctx, func() {
		abort(a)
		abort(b)
	})
	var there, back error
	var wg sync.WaitGroup
	wg.Go(func() {
		if there = pass(b, a, toB); there != nil {
			abort(a)
			abort(b)
		}
	})
	if back = pass(a, b, toA); back != nil {
		abort(a)
		abort(b)
	}
	wg.Wait()
	if !stop() {
		return context.Cause(ctx)
	}
	a.Close()
	b.Close()
	return firstCause(there, back)
}

// firstCause returns the error that ended a splice, not the error that the abort
// caused in the other direction.
func firstCause(there, back error) error {
	if there == nil || back != nil && errors.Is(there, net.ErrClosed) {
		return back
	}
	return there
}

// pass copies src to dst until src ends, and then ends dst's half.
func pass(dst, src net.Conn, count *atomic.Int64) error {
	buf := buffers.Get().(*[spliceBuffer]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			count.Add(int64(n)) // counted before the receiver has the bytes and can ask for the count
			if w, err := dst.Write(buf[:n]); err != nil {
				count.Add(int64(w - n))
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			closeWrite(dst)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// closeWrite ends our half of c. Where only both halves can be closed, the other
// direction ends by itself and Splice closes c then. closeWrite fails for an end that
// has gone or reads no more. That is no loss: either the end has the written bytes, or
// the other direction sees the fault.
func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}

// abort ends both halves of c at once, also while a Write hangs, and where c can
// it tells the other end that this was no orderly end.
func abort(c net.Conn) {
	switch c := c.(type) {
	case *tls.Conn:
		abort(c.NetConn()) // its own Close would wait to send an alert
	case interface{ Reset() }:
		c.Reset()
	case *net.TCPConn:
		_ = c.SetLinger(0) // fails only for a connection that has ended
		c.Close()
	default:
		c.Close()
	}
}
