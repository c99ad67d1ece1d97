package overlay

import (
	"crypto/sha256"
	"net/netip"

	"github.com/hpmq/hpmq/identity"
)

// Address returns the overlay address of a node or device: fd, 40 bits of the
// trust domain's hash, a zero subnet, and 64 bits of the SPIFFE ID's hash. It
// follows from the certificate alone, so a verifier recomputes it and a renewed
// key keeps it.
func Address(id identity.ID) netip.Addr {
	domain := sha256.Sum256([]byte("hpmq-ula/1" + id.TrustDomain))
	host := sha256.Sum256([]byte(id.String()))
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:6], domain[:])
	copy(a[8:], host[:])
	return netip.AddrFrom16(a)
}
