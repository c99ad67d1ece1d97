package directory

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/hpmq/hpmq/internal/hlc"
)

// A statement is a message of the writer to a device, which holds no directory. It
// carries the signer records that lead from the root key to the key of its
// signature. So the root key is all that a reader needs.

const (
	statementDomain     = "hpmq directory statement 1\n"
	maxStatement        = 64 << 10
	maxStatementSigners = 32
)

type statement struct {
	Signers   [][]byte `cbor:"1,keyasint"` // signer records, the first is signed with the root key
	Payload   []byte   `cbor:"2,keyasint"`
	Signature []byte   `cbor:"3,keyasint"` // with the key of the last signer record
}

func statementMessage(purpose string, payload []byte) []byte {
	return append([]byte(statementDomain+purpose+"\n"), payload...)
}

// Stamp returns a position in the writer's time. It is behind every record, head and
// stamp before it, also of earlier runs with a clock that was ahead.
func (d *Directory) Stamp() uint64 {
	d.mu.RLock()
	heard := max(d.clock, hlc.At(d.head.Head.Time()))
	d.mu.RUnlock()
	d.stampMu.Lock()
	defer d.stampMu.Unlock()
	d.stamped = hlc.Next(max(d.stamped, heard), d.now())
	return d.stamped
}

// Sign returns payload as a statement. purpose separates statements of one sort
// from all other sorts.
func (d *Directory) Sign(purpose string, payload []byte) ([]byte, error) {
	if !d.Writable() {
		return nil, ErrReplica
	}
	chain, err := d.signerChain()
	if err != nil {
		return nil, err
	}
	s := statement{Signers: chain, Payload: payload, Signature: ed25519.Sign(d.signer, statementMessage(purpose, payload))}
	raw, err := encoding.Marshal(s)
	if err == nil && len(raw) > maxStatement {
		err = fmt.Errorf("%d bytes, at most %d fit", len(raw), maxStatement)
	}
	if err != nil {
		return nil, fmt.Errorf("sign %s statement: %w", purpose, err)
	}
	return raw, nil
}

// signerChain returns the records that lead from the root key to the writer's.
func (d *Directory) signerChain() ([][]byte, error) {
	chain := [][]byte{}
	id := keyID(d.signer.Public().(ed25519.PublicKey))
	for {
		d.mu.RLock()
		seq, added := d.index.signerRecords[id]
		d.mu.RUnlock()
		if !added { // the root
			return chain, nil
		}
		e, err := d.entry(seq)
		if err != nil {
			return nil, err
		}
		if len(chain) == maxStatementSigners {
			return nil, fmt.Errorf("a chain of more than %d signers", maxStatementSigners)
		}
		chain = append([][]byte{e.raw}, chain...)
		id = e.Signer
	}
}

// OpenStatement returns the payload of a statement for purpose by a writer of the
// directory that began with root.
func OpenStatement(raw []byte, root ed25519.PublicKey, purpose string) ([]byte, error) {
	if len(raw) > maxStatement {
		return nil, fmt.Errorf("statement of %d bytes, at most %d", len(raw), maxStatement)
	}
	if len(root) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("directory root key of %d bytes, want %d", len(root), ed25519.PublicKeySize)
	}
	var s statement
	if err := decoding.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if again, err := encoding.Marshal(s); err != nil || !bytes.Equal(again, raw) {
		return nil, errors.New("statement: not in deterministic form")
	}
	key, err := followSigners(root, s.Signers)
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if !ed25519.Verify(key, statementMessage(purpose, s.Payload), s.Signature) {
		return nil, errors.New("statement: the directory's writer did not sign it")
	}
	return s.Payload, nil
}

// followSigners returns the key at the end of a chain of signer records.
func followSigners(root ed25519.PublicKey, chain [][]byte) (ed25519.PublicKey, error) {
	if len(chain) > maxStatementSigners {
		return nil, fmt.Errorf("%d signers, at most %d", len(chain), maxStatementSigners)
	}
	key := root
	for _, raw := range chain {
		e, rest, err := decodeEntry(raw)
		if err != nil {
			return nil, err
		}
		if e.Kind != KindSigner || len(rest) > 0 || e.Signer != keyID(key) {
			return nil, fmt.Errorf("record %d does not continue the chain of signers", e.Seq)
		}
		if err := e.verify(key); err != nil {
			return nil, err
		}
		added, err := e.Decode()
		if err != nil {
			return nil, err
		}
		key = added.(Signer).Key
	}
	return key, nil
}
