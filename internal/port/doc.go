// Package port serves TCP ports that several protocols and many strangers share.
//
// A [Port] takes TLS connections, finds out whether a client speaks MQTT or HTTP,
// and hands each connection to a listener for it. The finding out has a goroutine
// per connection and a deadline, so that a silent client delays no other. A bound
// number of connections may be in that state: when it is reached, the oldest
// connection of the address with the most is closed. The same rule bounds the
// connections of [ServeHTTP].
//
// The package knows neither identities nor policy: it is told by a TLS
// configuration which certificates it asks for, and by Admits which addresses may
// connect.
package port
