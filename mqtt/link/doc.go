// Package link carries messages between sites. It decides which messages a site
// wants, sends each of them to it until it is kept there, and takes the messages of
// other sites exactly once and in order. It knows neither sessions nor policy. Of
// the mesh it knows only a [Dialer], which opens streams to nodes with a proven
// identity.
//
// # Shape
//
// The sites are a full mesh of one hop. Per pair and direction there is one
// stream: the site that has messages to send opens it, so that each side's
// sending depends on nothing but its own stream. Each node of a site sends its own
// clients' messages. If another site has several nodes, it sends them to one: the
// connected node with the lowest identity, or, while none is connected, the lowest
// of all. The nodes of one site exchange nothing.
//
// # The protocol hpmq-link/1
//
// MQTT 5 packets. The opener sends CONNECT first, with its site as client
// identifier. User properties carry its epoch and the last number that it need not
// send any more, at whichever node of the site the number arrived. Unknown user
// properties are ignored, so later versions can announce new abilities there. The
// acceptor answers with CONNACK: Receive Maximum, Maximum Packet Size, its epoch and
// the number of topic filters that follow as a whole picture of its interest. From
// then on:
//
//   - The acceptor sends SUBSCRIBE and UNSUBSCRIBE as its interest changes, the
//     opener answers once the change is in its store and in force. A filter that
//     begins with $ is refused.
//   - The opener sends PUBLISH. Its first user properties are ours, by position
//     (see stamp); the publisher's follow unharmed, and by their position none of
//     them can pass for one of ours. At QoS 1 the acceptor sends PUBACK once the
//     message is kept in its store; a Reason Code of failure tells that it never
//     will be.
//     QoS 2 travels as QoS 1, deduplicated, with the published QoS in the stamp.
//   - Both send PINGREQ and answer it. A stream on which nothing arrives for
//     [deadAfter] is given up.
//
// # Interest
//
// The interest of a site lies in the opener's store and is in force before the
// opener's first client connects, whether the site can be reached or not. A change
// takes effect once it is kept, so a crash forgets no interest under which a message
// was acknowledged. For a site that was never heard, every message that it may
// receive is logged, or refused to its publisher (see [Options.RefusesUnknown]). When
// the site's first picture comes, the opener sends the logged messages that match it.
//
// # Numbers
//
// A message of lane 0 carries the sequence number of the store's outbound log
// for that peer, so a message that the peer did not ask for takes no number, and
// a jump tells of messages that the log's limit dropped. The opener also leaves out
// messages that expired, that the peer did not ask for, or that the peer may not
// receive any more; it counts them in the next stamp. The receiver keeps the last
// number as its floor, one for each sending node, in the transaction that keeps the
// message; a number that is not above the floor is a duplicate. The log is for the
// site: when the link moves to another of its nodes, that node gets the messages that
// the first did not acknowledge. Numbers belong to an epoch, which the sender makes
// anew when its store has forgotten the old one. Lane 1 has no numbers: it
// carries copies of retained messages, which their clock deduplicates.
//
// # Retained messages
//
// A filter that is new to the opener, and each filter of a first picture, is
// answered with the retained messages of the opener's own publishers that match
// it. They follow the messages that the log held before, once these are acknowledged.
// So a value that a receiver has had as a message does not reach its subscribers a
// second time. Copies of other sites' messages are not passed on.
//
// A message that clears a retained one goes to the log of every site, since any may
// have a copy. If a log loses such a message, the next stream makes it good: the
// opener sends, as retained messages without a payload, the tombstones of its own
// publishers that the acceptor's store was not yet told. The acceptor clears an older
// message and keeps the tombstone, so that an older copy is not retained again.
package link
