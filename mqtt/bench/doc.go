// Package bench puts a measured load on an MQTT broker and checks every
// delivery.
//
// It is neutral: it speaks MQTT 3.1.1 or 5 through connections that it is given
// and knows no broker. It decides how a load is driven and which messages count as
// lost, duplicated or out of order. It knows no URL, no certificate and no table.
//
// # What is measured
//
// The figure to compare between brokers is the processor time that the broker
// spends on one delivered message, user and system, all threads
// ([Result.BrokerMicros]). Messages per second depend on the generator, too, and on
// other work of the machine.
//
// A load is as fast as flow control lets it be, whatever the QoS: [Load.Window]
// messages may be on their way to a subscriber, shared by its publishers. QoS 1 and 2
// keep to [Load.Inflight] and to the broker's Receive Maximum as well. Publishing goes
// on when half of that is free, so that a fast generator does not force the broker
// into one message per system call; [Load.Batch] = 1 asks for exactly that. A broker
// that drops messages is thereby seen as losing, not as fast: a message that has not
// come after [Load.Patience] is given up, and counted.
//
// With [Load.Rate], delays count from the time a message was due, not from when
// it was written, so that a stall is not hidden by the load that it held back.
//
// # How
//
// Each payload begins with its publisher, sequence number and time. A bitmap per
// publisher and subscriber tells late from repeated. Sockets that the kernel
// serves directly are driven by one thread with epoll, non-blocking calls and
// large buffers, which costs less per message than any broker spends on it; TLS,
// WebSocket and QUIC have a reader and a writer goroutine per connection.
// [Result.OwnCores] near 1 says that the generator was the bottleneck.
package bench
