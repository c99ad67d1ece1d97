package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/internal/logfield"
)

// maxForwards bounds the local connections that a forward serves at a time;
// further ones wait in the kernel.
const maxForwards = 128

// Forward accepts connections on l and splices each with one from dial, until
// ctx is done, which is not an error. When dial fails, the local connection is reset
// and the error logged. A *[Denied] before any connection worked ends Forward with
// that error: further connections would be denied too. When Forward returns, l is
// closed and no connection is left.
func Forward(ctx context.Context, l net.Listener, dial func(context.Context) (net.Conn, error), log logrus.FieldLogger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	f := &forward{dial: dial, log: logfield.OrSilent(log), stop: cancel}
	defer f.conns.Wait()
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	slots := make(chan struct{}, maxForwards)
	for {
		local, err := l.Accept()
		if err != nil {
			if cause := context.Cause(ctx); isDenied(cause) {
				return cause
			}
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		slots <- struct{}{} // a connection ends by itself or with ctx
		f.conns.Go(func() {
			defer func() { <-slots }()
			f.serve(ctx, local)
		})
	}
}

type forward struct {
	dial   func(context.Context) (net.Conn, error)
	log    logrus.FieldLogger
	stop   context.CancelCauseFunc
	worked atomic.Bool // a dial has succeeded
	conns  sync.WaitGroup
}

func isDenied(err error) bool {
	_, ok := errors.AsType[*Denied](err)
	return ok
}

func (f *forward) serve(ctx context.Context, local net.Conn) {
	remote, err := f.dial(ctx)
	if err != nil {
		abort(local)
		if isDenied(err) && !f.worked.Load() {
			f.stop(err)
		} else if ctx.Err() == nil {
			f.log.WithField(logfield.Reason, err.Error()).Warn("connection refused")
		}
		return
	}
	f.worked.Store(true)
	entry := f.log.WithField(logfield.Remote, local.RemoteAddr().String())
	entry.Debug("connection open")
	if err := Splice(ctx, local, remote); err != nil && ctx.Err() == nil {
		entry.WithField(logfield.Reason, err.Error()).Info("connection cut")
		return
	}
	entry.Debug("connection closed")
}
