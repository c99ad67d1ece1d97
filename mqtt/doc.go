// Package mqtt is the broker: MQTT 3.1.1 and 5, sessions and routing.
//
// It decides as the specification says, and finds the receivers of a message. The
// rights of an identity are the [Authorizer]'s answer, the outcome of functions is
// the [Filter]'s, and the topics that other sites want are the [Forwarder]'s; the
// broker knows neither policy files nor WebAssembly nor links. State that has to
// outlive a connection is in a [github.com/hpmq/hpmq/mqtt/store.Store].
//
// # The path of a publish
//
// Each step is one function. The order never changes: conn.handlePublish takes the
// first five in publish.go, and pipeline.run the others in pipeline.go, entry by
// entry.
//
//  1. decode (Publish.Decode in packet/publish.go);
//  2. resolve the topic alias, before anything asks about the topic
//     (conn.resolveAlias in publish.go);
//  3. find the route of the topic, or validate a new topic (conn.routeOf in
//     publish.go);
//  4. authorize; a refusal is explained where the version can (conn.authorize in
//     publish.go);
//  5. deliver at once (conn.deliverNow in publish.go) if no function, no other site
//     and no store has a part in it; else park a copy in the client's pipeline
//     (conn.park in publish.go), behind which the client's next messages wait;
//  6. run the upstream chain (pipeline.push in parked.go), make messages of its
//     answer, and authorize messages that functions made, as the function and as
//     the client (pipeline.applyUpstream in pipeline.go);
//  7. match: find the receivers of each message (pipeline.matchReceivers in
//     pipeline.go);
//  8. ask the downstream chain of each receiving session, once, before its queue
//     (pipeline.askDownstream in pipeline.go);
//  9. persist in one store transaction all that must not be lost: queue entries, the
//     retained value, outbound logs, the QoS 2 identifier, the state of functions
//     (pipeline.commitEntry in pipeline.go);
//  10. deliver, then acknowledge (pipeline.finishEntry in pipeline.go).
//
// The pipeline itself, the ordered queue of parked messages, is in parked.go. An entry
// goes through steps 6 to 8 in one go (pipeline.routeEntry); for step 9 it waits
// until the downstream chains have answered, and for step 10 until the store has.
//
// A shared subscription is a receiver of its own: at QoS 1 and 2 the message
// enters the group's queue in step 9, and the group gives it to one member, whose
// downstream chain sees it then (group.pump in dispatch.go).
//
// # When rights change
//
// [Broker.Reauthorize] has subscriptions sleep that the policy does not grant any
// more, and has sessions ask again about messages that wait for them, see judge.go.
//
// # How connections and sessions end
//
// The steps of both, in their order, stand at the head of end.go.
//
// # Goroutines and locks
//
// Each connection has one reader. It delivers into the outboxes of the receivers
// and flushes each of them once per read batch; a writer goroutine exists only
// while a client takes less than it is sent. No client blocks another: a full outbox
// refuses messages of QoS 0 and lets messages of QoS 1 and 2 wait in the receiver's
// queue, and a client whose own messages or answers pile up is not read until they
// are through.
//
// The reader is a goroutine until CONNECT was answered. Then, on Linux, a socket
// with or without TLS goes to an event loop, which reads many of them in one
// goroutine and flushes once for all that were ready together. A loop never waits: a
// packet that may have to wait takes its connection to a goroutine and back.
// WebSocket and QUIC keep their readers' goroutines, and are flushed by the goroutine
// that delivers like all connections: see package [github.com/hpmq/hpmq/mqtt/socket].
//
// Locks are taken in the order session.mu, outbox.mu; pipeline.mu, group.mu,
// Broker.interestMu and Broker.mu are held alone or before those; bucket.mu is
// last. session.recordToken and then session.subscribing come before all of them; the
// token of a will is given back by another goroutine. No callback, policy question,
// store access or socket call runs under session.mu, outbox.mu or pipeline.mu, but for
// the reads of a resumed session's queue and [Rights.Receive] about messages that leave
// it.
package mqtt
