package overlay

import "sync/atomic"

// Counters are totals since the node was made.
type Counters struct {
	Dialled           uint64 // connections that we made
	Accepted          uint64 // connections that peers made
	Refused           uint64 // handshakes and connections that we refused
	StreamsOpened     uint64
	StreamsAccepted   uint64
	StreamsRefused    uint64 // unknown protocol, denied, over a limit or malformed header
	DatagramsSent     uint64
	DatagramsDropped  uint64 // the connection's queue was full, or the channel has no handler
	WireGuardPackets  uint64 // WireGuard packets, dropped: nothing serves them yet
	ProbePackets      uint64 // path probes that came
	GarbagePackets    uint64 // neither WireGuard nor probe nor QUIC
	UnsendablePackets uint64 // refused by the kernel, as when an interface is down
}

type counters struct {
	dialled, accepted, refused                     atomic.Uint64
	streamsOpened, streamsAccepted, streamsRefused atomic.Uint64
	datagramsSent, datagramsDropped                atomic.Uint64
	wireGuard, probes, garbage, unsendable         atomic.Uint64
}

// Counters returns the totals so far.
func (n *Node) Counters() Counters {
	c := &n.counters
	return Counters{
		Dialled:           c.dialled.Load(),
		Accepted:          c.accepted.Load(),
		Refused:           c.refused.Load(),
		StreamsOpened:     c.streamsOpened.Load(),
		StreamsAccepted:   c.streamsAccepted.Load(),
		StreamsRefused:    c.streamsRefused.Load(),
		DatagramsSent:     c.datagramsSent.Load(),
		DatagramsDropped:  c.datagramsDropped.Load(),
		WireGuardPackets:  c.wireGuard.Load(),
		ProbePackets:      c.probes.Load(),
		GarbagePackets:    c.garbage.Load(),
		UnsendablePackets: c.unsendable.Load(),
	}
}
