// Package packet is the wire format of MQTT 3.1.1 and 5: one struct per packet
// type, each with Decode, Append and Size, for both directions.
//
// Decode decides whether bytes are a packet of the specification. If not, it returns
// an [Error] with a Reason Code and the number of the normative statement. The
// numbers are from MQTT 5; the few rules that only 3.1.1 has are written as
// "MQTT-3.1.1 [3.1.2-22]". Rules about more than one packet (whether an alias is
// known, a filter granted, a packet identifier in use) are left to the caller, and so
// is the placing of wildcards in a Topic Filter. [Publish.CheckClient],
// [Disconnect.CheckClient] and their like hold the rules that depend on the sender of
// the packet.
//
// Memory: Decode allocates only for bytes that are there. Publish.TopicName and
// Publish.Payload alias the body; everything else that Decode fills in is a copy
// of its own and may be kept. Append never fails: a value that a field cannot carry (a
// string above 65,535 bytes) is cut, and fields that the protocol version does not
// know are left out.
//
// The package knows no sockets and no sessions.
package packet
