// Package password keeps the passwords of one node's MQTT clients that have no
// certificate.
//
// A [Book] is one file of argon2id hashes. It decides whether a name and a
// password go together, and makes guessing slow: an unknown name costs what a
// known one costs, few hashes are computed at a time, and who fails often waits.
// It knows no identities: what a name may do, and whether it was revoked, is for
// others to say.
package password
