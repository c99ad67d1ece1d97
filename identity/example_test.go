package identity_test

import (
	"fmt"

	"github.com/hpmq/hpmq/identity"
)

// A name is a SPIFFE ID in certificates, and short where its trust domain is known.
func ExampleID() {
	pump, err := identity.ParseShort("lab.test", "device:pump-7")
	if err != nil {
		panic(err)
	}
	fmt.Println(pump, pump.Short())

	again, err := identity.ParseID("spiffe://lab.test/device/pump-7")
	fmt.Println(again == pump, err)
	_, err = identity.ParseID("spiffe://lab.test/device/pump-7/extra")
	fmt.Println(err)
	// Output:
	// spiffe://lab.test/device/pump-7 device:pump-7
	// true <nil>
	// identity name "pump-7/extra": want 1-63 of a-z 0-9 . _ @ -, beginning with a letter or digit
}

// A request for a certificate says for which name, and its key signs it.
func ExampleNewCSR() {
	key, err := identity.NewKey()
	if err != nil {
		panic(err)
	}
	pump := identity.ID{TrustDomain: "lab.test", Kind: identity.Device, Name: "pump-7"}
	der, err := identity.NewCSR(key, pump)
	if err != nil {
		panic(err)
	}
	_, id, err := identity.ParseCSR(der)
	fmt.Println(id, err)
	// Output:
	// spiffe://lab.test/device/pump-7 <nil>
}
