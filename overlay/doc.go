// Package overlay carries everything that nodes, agents and people say to each
// other: mutually authenticated QUIC connections on one UDP port, and on them
// streams by protocol name and small unreliable datagrams.
//
// A [Node] decides who may connect (a certificate of the trust domain, not
// revoked, accepted by [Options.Accept]) and asks an [Authorizer] who may open
// which protocol; the receiving end enforces both. It knows identities and
// addresses. It does not know topics, ports or functions, nor what a stream
// says after its header.
//
// # Connections
//
// Two peers that dial each other at once get two connections, and a peer that
// lost its path dials again before the other end has noticed. So a peer is a
// set of live connections, oldest first: [Node.Open] takes the newest,
// [Node.Disconnect] ends every one. A connection never outlives the
// certificates it was made with.
//
// After the handshake the accepting end sends one byte on a unidirectional
// stream. Without it a dialer would take a connection for established that the
// other end is about to refuse: in TLS 1.3 the client finishes first.
//
// # Streams
//
// A stream begins with one length byte and the protocol's name; what follows
// belongs to the protocol. The opener writes first. A stream that nobody
// handles, or that is not allowed, is reset with a code that the opener reads
// back as [ErrUnknownProtocol], [ErrDenied] or [ErrBusy].
//
// A receiver that does not read holds back its own stream only: a stream that
// is never read may hold 256 KiB, and a connection's window of 32 MiB is as
// large as that times the 128 streams a peer may have open on it.
//
// # Losing the path and finding it again
//
// Keep-alives leave every 15 s and a connection is given up after 30 s without
// an answer, so a cable that is out for 10 s ends no stream. The sender's
// retransmission timer has then backed off to as much as the length of the cut,
// which is why [Node.Keep] looks after the connections it wants: after 1 s
// without an answer it asks once a second (a small datagram, whose
// acknowledgement restarts everything waiting), and after 3 s it dials anew
// beside the old connection, until that answers: packets that the peer sends of
// itself do not tell that ours leave, which may wait behind a congestion window
// until the backed-off timer fires. The pause between dials is at most an eighth of
// the time since the path was last seen, between 100 ms and 5 s. A path that
// was cut for 10 s is thus in use again within 1.25 s and a round trip.
//
// A peer that was killed and started again knows nothing of the connections
// before. With [Options.ResetKey] it says so when it is spoken to on one, which
// ends it at once. Without, the connection before is asked as well when the peer
// has connected anew, and ends when it has not answered for 3 s while its
// successor has. So does one that answered beside its successor and no longer
// does, as when each of the two has a path of its own.
package overlay
