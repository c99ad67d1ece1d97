package websocket

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/coder/websocket"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/internal/logfield"
)

const (
	// Path is where clients find the broker.
	Path = "/mqtt"
	// Subprotocol is the WebSocket subprotocol that a client must offer [MQTT-6.0.0-3].
	Subprotocol = "mqtt"
	// oldSubprotocol is MQTT 3.1's, which the broker does not speak.
	oldSubprotocol = "mqttv3.1"
)

// largestPacket is MQTT's largest packet with its fixed header.
const largestPacket = 5 + 268_435_455

// Options configures a [Listener]. Zero values are usable unless a comment says
// otherwise.
type Options struct {
	Addr net.Addr           // the result of Listener.Addr: where the HTTP server listens
	Log  logrus.FieldLogger // refused handshakes; nil discards them

	// Origins are the web origins, such as https://console.example.org, with pages that
	// may connect. Pages of the host that they connect to may connect too (without TLS:
	// if that is localhost or an address). Clients that are not browsers send no Origin
	// and are not asked.
	Origins []string

	// MessageSize bounds one WebSocket message, in bytes. It costs no memory,
	// for messages are handed on as they arrive. Zero means the largest MQTT
	// packet.
	MessageSize int64

	// Waiting bounds the connections that were upgraded and not yet accepted.
	// Zero means 256.
	Waiting int
}

// A Listener upgrades HTTP requests and hands the connections to Accept. Each is
// a [net.Conn] which also has a method ConnectionState like that of a
// [crypto/tls.Conn]; without TLS the state is zero and holds no certificate.
type Listener struct {
	opts    Options
	log     logrus.FieldLogger
	origins map[string]bool

	// places holds a token per connection that is being upgraded or waits.
	places chan struct{}
	// waiting has room for every holder of a place, so sending to it never blocks. It
	// is drained by Accept and, once closed is closed, by Close and the senders.
	waiting chan *conn
	closed  chan struct{}
	once    sync.Once
}

var (
	_ net.Listener = (*Listener)(nil)
	_ http.Handler = (*Listener)(nil)
)

// New returns a listener that an HTTP server has to call. It fails if an origin
// is not one.
func New(opts Options) (*Listener, error) {
	origins, err := parseOrigins(opts.Origins)
	if err != nil {
		return nil, err
	}
	opts.MessageSize = cmp.Or(opts.MessageSize, largestPacket)
	opts.Waiting = cmp.Or(opts.Waiting, 256)
	l := &Listener{
		opts: opts, log: opts.Log, origins: origins,
		places: make(chan struct{}, opts.Waiting), waiting: make(chan *conn, opts.Waiting),
		closed: make(chan struct{}),
	}
	if l.log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		l.log = silent
	}
	return l, nil
}

// Accept waits for the next client.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.waiting:
		<-l.places
		select {
		case <-l.closed: // both were ready
			c.Close()
		default:
			return c, nil
		}
	case <-l.closed:
	}
	return nil, &net.OpError{Op: "accept", Net: network, Addr: l.opts.Addr, Err: net.ErrClosed}
}

// Close ends Accept and closes the connections that were not accepted. The accepted
// ones stay.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	l.drain()
	return nil
}

// Addr returns the address of the HTTP server.
func (l *Listener) Addr() net.Addr { return l.opts.Addr }

func (l *Listener) drain() {
	for {
		select {
		case c := <-l.waiting:
			<-l.places
			c.Close()
		default:
			return
		}
	}
}

// ServeHTTP upgrades a request or says why not. It does not wait for Accept.
func (l *Listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if status, why := l.refuse(r); why != "" {
		l.refused(r, why)
		http.Error(w, why, status)
		return
	}
	select {
	case l.places <- struct{}{}:
	default:
		l.refused(r, "too many clients wait to be accepted")
		http.Error(w, "the broker is busy, try again later", http.StatusServiceUnavailable)
		return
	}
	c, err := l.upgrade(w, r)
	if err != nil {
		<-l.places
		l.refused(r, err.Error())
		return
	}
	l.waiting <- c
	select {
	case <-l.closed:
		l.drain()
	default:
	}
}

// refuse returns why a request is not upgraded, or nothing.
func (l *Listener) refuse(r *http.Request) (status int, why string) {
	select {
	case <-l.closed:
		return http.StatusServiceUnavailable, "the broker is going down"
	default:
	}
	switch offered := subprotocols(r); {
	case r.URL.Path != Path:
		return http.StatusNotFound, "MQTT over WebSocket is at " + Path
	case !l.mayConnect(r):
		return http.StatusForbidden, "pages of this Origin may not connect here: its host is not the broker's and it is not listed"
	case offered[Subprotocol]:
		return 0, ""
	case offered[oldSubprotocol]:
		return http.StatusBadRequest, "MQTT 3.1 (subprotocol " + oldSubprotocol + ") is not spoken here: use MQTT 3.1.1 or 5, subprotocol " + Subprotocol
	default:
		return http.StatusBadRequest, "this is MQTT over WebSocket: connect with a WebSocket client that offers the subprotocol " + Subprotocol
	}
}

func subprotocols(r *http.Request) map[string]bool {
	offered := make(map[string]bool)
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for name := range strings.SplitSeq(line, ",") {
			offered[strings.ToLower(strings.TrimSpace(name))] = true
		}
	}
	return offered
}

func (l *Listener) upgrade(w http.ResponseWriter, r *http.Request) (*conn, error) {
	t := &tap{ResponseWriter: w}
	ws, err := websocket.Accept(t, r, &websocket.AcceptOptions{
		Subprotocols:       []string{Subprotocol}, // [MQTT-6.0.0-4]
		InsecureSkipVerify: true,                  // mayConnect looked at the Origin
	})
	if err != nil {
		return nil, err // and Accept has answered
	}
	ws.SetReadLimit(l.opts.MessageSize)
	return &conn{ws: ws, socket: t.socket, tls: r.TLS, endless: context.WithoutCancel(r.Context())}, nil
}

func (l *Listener) refused(r *http.Request, why string) {
	l.log.WithField(logfield.Remote, r.RemoteAddr).WithField(logfield.Reason, why).Info("WebSocket client refused")
}
