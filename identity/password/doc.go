// Package password keeps the passwords of one node's MQTT clients that have no
// certificate.
//
// A [Book] is one file of argon2id hashes. It decides whether a name and a password
// go together, and makes guessing slow: an unknown name costs as much as a known
// one, few hashes are computed at a time, and a client that fails often waits. It
// does not know the rights of a name, nor whether it was revoked.
package password
