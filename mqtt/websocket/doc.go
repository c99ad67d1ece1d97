// Package websocket accepts MQTT clients over WebSocket.
//
// A [Listener] is two things: the [net/http.Handler] that upgrades requests for
// [Path], and the [net.Listener] from which the broker takes the connections. It
// decides which clients may upgrade, by subprotocol and Origin. It carries MQTT's
// bytes in binary frames; the borders of frames mean nothing [MQTT-6.0.0-2]. It knows
// no MQTT packet and no identity. The [net/http.Server] limits the time of a handshake
// and the size of its headers.
//
// The library github.com/coder/websocket shakes hands, reads and closes. Frames of
// data are made here, so that they can be written without blocking and without a
// goroutine; the library's control frames take the same way.
package websocket
