package directory

import (
	"fmt"
	"math"
)

// CheckPolicySize says why files are too many or too large for one policy record of
// any version. A policy must fit: it reaches the other nodes no other way.
func CheckPolicySize(files map[string][]byte) error {
	p := Policy{Version: math.MaxUint64, Files: files, Hash: HashFiles(files)}
	payload, err := encoding.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode policy: %w", err)
	}
	r := Record{Kind: KindPolicy, Key: p.slot().Key, Payload: payload}
	if err := r.checkSize(); err != nil {
		return err
	}
	_, err = r.Decode()
	return err
}
