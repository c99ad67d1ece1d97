package gossip

import (
	"log"
	"strings"

	"github.com/sirupsen/logrus"
)

// newLogger routes serf's and memberlist's messages to log at the debug level.
// Their warnings concern an operator only when a member's status changes, and
// that is reported elsewhere.
func newLogger(l logrus.FieldLogger) *log.Logger {
	return log.New(debugWriter{l}, "", 0)
}

type debugWriter struct{ log logrus.FieldLogger }

// Write logs one message.
func (w debugWriter) Write(b []byte) (int, error) {
	w.log.WithField("gossip", strings.TrimSpace(string(b))).Debug("gossip says")
	return len(b), nil
}
