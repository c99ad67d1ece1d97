package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
)

// Flow is one open connection to a port, as [Agent.Flows] reports it.
type Flow struct {
	Caller   identity.ID `json:"caller"`
	Network  string      `json:"network"`
	Port     uint16      `json:"port"`
	Rule     string      `json:"rule"` // that allowed it
	Since    time.Time   `json:"since"`
	Received int64       `json:"received"` // bytes from the caller
	Sent     int64       `json:"sent"`     // bytes to the caller
}

// flow is a caller with a proven identity, from its request to its end.
type flow struct {
	conn     *tls.Conn
	caller   identity.ID
	leaf     *x509.Certificate
	notAfter time.Time // the earliest end of the caller's certificates
	request  request
	since    time.Time
	end      context.CancelCauseFunc // cuts it; safe at any time

	rule           atomic.Pointer[string] // set when it is open
	received, sent atomic.Int64
}

func (f *flow) port() string { return fmt.Sprintf("%s/%d", f.request.Network, f.request.Port) }

// answer sends the caller the decision; the deadline of the handshake ends with it.
func (f *flow) answer(ans *answer) error {
	if err := f.conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	ans.Rule, ans.Reason = clip(ans.Rule), clip(ans.Reason)
	if err := writeFrame(f.conn, ans); err != nil {
		return err
	}
	if ans.Code != codeAllowed {
		return f.conn.Close()
	}
	return f.conn.SetDeadline(time.Time{})
}

func (f *flow) snapshot(rule string) Flow {
	return Flow{
		Caller: f.caller, Network: f.request.Network, Port: f.request.Port, Rule: rule,
		Since: f.since, Received: f.received.Load(), Sent: f.sent.Load(),
	}
}

func (f *flow) entry(log logrus.FieldLogger) logrus.FieldLogger {
	return log.WithFields(logrus.Fields{logfield.SPIFFEID: f.caller.String(), "port": f.port()})
}

// totals are the log fields of a flow that ended with err.
func (f *flow) totals(err error) logrus.Fields {
	fields := logrus.Fields{
		"received": f.received.Load(), "sent": f.sent.Load(),
		"lasted": time.Since(f.since).Round(time.Millisecond).String(),
	}
	if err != nil {
		fields[logfield.Reason] = err.Error()
	}
	return fields
}

// flows is the table of an agent's flows.
type flows struct {
	limit, limitPerCaller int

	mu   sync.Mutex
	list []*flow // oldest first
}

func (t *flows) add(f *flow) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.list) >= t.limit {
		return fmt.Errorf("%d connections are open, no more are allowed", len(t.list))
	}
	own := 0
	for _, other := range t.list {
		if other.caller == f.caller {
			own++
		}
	}
	if own >= t.limitPerCaller {
		return fmt.Errorf("%s has %d connections open, no more are allowed", f.caller.Short(), own)
	}
	t.list = append(t.list, f)
	return nil
}

func (t *flows) remove(f *flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.DeleteFunc(t.list, func(other *flow) bool { return other == f })
}

func (t *flows) all() []*flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.list)
}
