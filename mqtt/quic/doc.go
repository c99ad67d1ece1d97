// Package quic accepts MQTT clients over QUIC, and connects as one.
//
// It follows the single-stream convention of EMQX and NanoMQ: ALPN "mqtt", and
// the first bidirectional stream that the client opens is the MQTT connection;
// there is no other. A [Listener] is the [net.Listener] from which the broker
// takes them. It decides how long a client may take until then and how many may
// do so at once; it knows no MQTT packet, and of identities only what the TLS
// configuration checks. There is no 0-RTT: what a client sends before the
// handshake is over could be a replay.
//
// Whoever delivers to a client queues for its stream without blocking: see
// TryWrite. It wakes the goroutine that quic-go has for each connection, which
// alone may put packets together, encrypt and send them; so a message costs that
// one wake-up, and no goroutine is started for it. One is for every 32 KiB, to
// bound what is queued.
package quic
