package mqtt

import (
	"net"
	"testing"
	"time"
)

// deadlined is a socket that keeps the last deadline for writing.
type deadlined struct {
	*net.TCPConn
	last time.Time
}

func (d *deadlined) SetWriteDeadline(t time.Time) error {
	d.last = t
	return d.TCPConn.SetWriteDeadline(t)
}

// A deadline that stays after a slow moment would end the connection at the next
// flush that comes a minute later.
func TestDrainLeavesNoDeadline(t *testing.T) {
	l := listenTCP(t)
	defer l.Close()
	peer := dialTCP(t, l)
	defer peer.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	d := &deadlined{TCPConn: nc.(*net.TCPConn)}
	s := newSocketSink(d)
	s.hold([]byte("rest"))
	if err := s.drain(); err != nil {
		t.Fatal(err)
	}
	if !d.last.IsZero() {
		t.Errorf("deadline %v", time.Until(d.last))
	}
}
