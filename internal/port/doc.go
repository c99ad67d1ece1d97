// Package port serves TCP ports that several protocols and many strangers share.
//
// A [Port] takes TLS connections, finds out whether a client speaks MQTT or HTTP,
// and hands each connection to a listener for it. Each connection has a goroutine and
// a deadline for that, so that a silent client delays no other. The number of
// connections in that state is bounded: when the bound is reached, the oldest
// connection of the address with the most is closed. The same rule bounds the
// connections of [ServeHTTP].
//
// The package knows neither identities nor policy: it is told by a TLS
// configuration which certificates it asks for, and by Admits which addresses may
// connect.
package port
