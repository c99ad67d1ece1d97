package port

import (
	"context"
	"errors"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"time"
)

// maxHTTP bounds the HTTP connections of one listener. WebSockets do not count: the
// broker counts them.
const maxHTTP = 512

// The longest that a client may take to send a request, and to take the answer
// in. A function's module and its compilation must fit.
const (
	requestTimeout = 30 * time.Second
	answerTimeout  = 5 * time.Minute
)

// ServeHTTP serves until ctx is done and waits for the requests under way.
func ServeHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	waiting := newWaitingRoom(maxHTTP)
	s := &http.Server{
		ConnState: func(conn net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				waiting.enter(conn)
			case http.StateHijacked, http.StateClosed:
				waiting.leave(conn)
			case http.StateActive, http.StateIdle:
			}
		},
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: requestTimeout, WriteTimeout: answerTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    stdlog.New(io.Discard, "", 0), // drops net/http's remarks on connections that clients broke off
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if s.Shutdown(grace) != nil {
			s.Close()
		}
	})
	err := s.Serve(l)
	if !stop() {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
