package access

import (
	"io"

	"github.com/sirupsen/logrus"
)

// orDiscard returns log, or a logger that writes nothing.
func orDiscard(log logrus.FieldLogger) logrus.FieldLogger {
	if log != nil {
		return log
	}
	discard := logrus.New()
	discard.SetOutput(io.Discard)
	return discard
}
