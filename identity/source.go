package identity

// Source gives the identity that a process has now and the roots it trusts now.
// Both change at run time when a certificate is renewed, so ask for each new
// connection. Both are nil before the first certificate.
type Source interface {
	SVID() *SVID
	Bundle() *Bundle
}
