// Package authority issues the certificates of a trust domain.
//
// An [Authority] decides which party gets which certificate: a ticket holder on
// enrolment, the holder of the current key on renewal, this process for its own
// identities. It decides whether an identity is still good, and records every
// certificate in the directory before any other party sees it. Signing itself is
// done by an embedded smallstep authority that runs no listener, knows no
// provisioner and refuses to sign a certificate that this package did not ask for.
//
// Issuing is idempotent: the same ticket and key, or the same renewal id, get
// the certificate that they got before, however often a lost answer makes a
// client ask. A renewal that asks anew at a spent generation means that two
// parties hold one key; it is refused and counted as a clone alarm.
//
// The package serves the enrolment API for authorities and, through [Relay],
// for nodes that have none. It does not know policy: the rights of an identity,
// and who may have tickets, are decided elsewhere.
package authority
