// Package socket writes to connections without blocking, and reads many of them in
// one goroutine. It knows no MQTT: bytes come in and go out.
//
// A [Sink] writes to one connection. [NewSink] finds the one that suits it: raw
// system calls for a socket, with or without TLS ([Quick]), and the connection's own
// way for a stream of QUIC ([TryWriter]) or a WebSocket ([Framed]). Each takes what
// the kernel takes at once, and keeps the rest for Drain, which blocks.
//
// On Linux [Conn.HandOver] takes a socket away from the runtime's poller. Its
// [Descriptor] is then read where a [Poll] says that something came: the goroutine of
// an event loop, which belongs to the caller, as does the decision which of them may wait.
package socket
