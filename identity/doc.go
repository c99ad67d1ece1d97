// Package identity says which identity a peer has, and lets a process prove its own.
//
// Everything that takes part in the fabric has one SPIFFE [ID] and one X.509
// certificate for it. An [SVID] is that certificate with its key, a [Bundle]
// the roots that judge the certificates of peers, a [Store] the directory that
// keeps both on disk. [ServerConfig] and [ClientConfig] turn them into TLS
// configurations with peers that are checked by SPIFFE ID. A [Ticket] is the one
// string that lets a new device in: [Enrol] trades it for a certificate, and a
// [Renewer] keeps that certificate fresh.
//
// The package decides whether a certificate chain is genuine, in time and well
// formed. It does not know what an identity may do, which identities exist or
// were revoked, nor how certificates are issued: it asks a [Revoked] function
// and a certificate authority behind [EnrolRequest] and [RenewRequest].
package identity
