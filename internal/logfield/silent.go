package logfield

import (
	"io"

	"github.com/sirupsen/logrus"
)

// OrSilent returns log, or a logger that writes nothing where log is nil.
func OrSilent(log logrus.FieldLogger) logrus.FieldLogger {
	if log != nil {
		return log
	}
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	return silent
}
