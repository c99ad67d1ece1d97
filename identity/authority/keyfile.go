package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/hpmq/hpmq/identity"
)

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// encodeIssuer encodes an issuer and earlier ones. The issuer's certificate comes
// first and its key last, which is where versions look that know no earlier keys.
func encodeIssuer(i issuer, earlier []issuer) ([]byte, error) {
	text := identity.EncodeCertificates(i.cert)
	for _, e := range append(slices.Clone(earlier), issuer{key: i.key}) {
		if e.cert != nil {
			text = append(text, identity.EncodeCertificates(e.cert)...)
		}
		if e.key == nil {
			continue
		}
		key, err := encodeKey(e.key)
		if err != nil {
			return nil, err
		}
		text = append(text, key...)
	}
	return text, nil
}

// decodeIssuers returns the issuers of a file in its order, each with its key if
// that is among the keys.
func decodeIssuers(text []byte) ([]issuer, error) {
	var all []issuer
	var keys []crypto.Signer
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			key, err := parseKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, issuer{cert: c})
	}
	if len(all) == 0 || len(keys) == 0 {
		return nil, errors.New("want a certificate and its key")
	}
	for i := range all {
		pub, ok := all[i].cert.PublicKey.(*ecdsa.PublicKey)
		if n := slices.IndexFunc(keys, func(key crypto.Signer) bool { return ok && pub.Equal(key.Public()) }); n >= 0 {
			all[i].key = keys[n]
		}
	}
	return all, nil
}

func readKey(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM key found", filepath.Base(path))
	}
	return parseKey(block.Bytes)
}

func parseKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key of type %T cannot sign", key)
	}
	return signer, nil
}
