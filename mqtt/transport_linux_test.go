package mqtt

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkTransport measures what it costs to pass on single messages from a
// publisher over TCP, clients included.
func BenchmarkTransport(b *testing.B) {
	for _, name := range []string{"tcp", "tls", "websocket", "websocket tls", "quic"} {
		b.Run(strings.ReplaceAll(name, " ", "+"), func(b *testing.B) {
			l, dial := transports[name](b)
			broker := startBroker(b, l, Options{}, admitAnyone)
			plain, dialPlain := transports["tcp"](b)
			broker.serve(b, plain, admitAnyone)
			sub, pub := connectSocket(b, dial(), connectPacket("sub")), connectSocket(b, dialPlain(), connectPacket("pub"))
			sub.subscribe("a", 0)
			payload := make([]byte, 100)
			for _, w := range []*socketClient{sub, pub} {
				if err := w.nc.SetDeadline(time.Time{}); err != nil {
					b.Fatal(err)
				}
			}
			publishAndReceive(b, pub, sub, payload)
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				publishAndReceive(b, pub, sub, payload)
			}
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N)/1e3, "cpu-µs/op")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
