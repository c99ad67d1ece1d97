// Package gossip keeps the list of the nodes that are up and spreads short
// events among them: serf, carried wholly by an overlay.
//
// Packets are overlay datagrams and streams are overlay streams. So a machine without
// a certificate of the trust domain cannot send anything, and packets are routed
// by node name, not by address: the addresses that memberlist insists on are
// derived from the identities and never dialled. Only nodes that
// [Options.Known] vouches for are heard or listed.
//
// Claims of members about each other are not signed. Everything here is a hint: which
// node is up, how far it is, that there is something new to fetch. Facts come
// from signed records, and no key, route or right follows from this package.
//
// The timing is serf's LAN profile with the time to answer a probe raised to
// 700 ms, for sites on different continents: a crashed node is seen as failed
// after 5 to 7 s among ten nodes, below 10 s among fifty. serf's WAN profile
// takes half a minute. One direct probe that is lost to the path costs nothing:
// three other members and a stream are asked before a node is suspected.
package gossip
