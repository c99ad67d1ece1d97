// Package quic accepts MQTT clients over QUIC, and connects as one.
//
// It follows the single-stream convention of EMQX and NanoMQ: ALPN "mqtt", and
// the first bidirectional stream that the client opens is the MQTT connection;
// there is no other. A [Listener] is the [net.Listener] from which the broker
// takes these connections. It decides how long a client may take to open the stream
// and how many clients may do so at once. It knows no MQTT packet, and checks
// identities only by the TLS configuration. There is no 0-RTT: data that a client
// sends before the handshake is over could be a replay.
//
// A goroutine that delivers to a client queues bytes for its stream without
// blocking: see TryWrite. It wakes the goroutine that quic-go has for each
// connection, which alone may put packets together, encrypt and send them. So a
// message costs that one wake-up, and no goroutine is started for it. Only every
// 32 KiB one is started, to bound the queued bytes.
package quic
