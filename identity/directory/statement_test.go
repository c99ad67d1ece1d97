package directory

import (
	"bytes"
	"crypto/ed25519"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newSigner(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

// openSigned opens the log at path for writing with key.
func openSigned(t *testing.T, path string, root ed25519.PublicKey, key ed25519.PrivateKey, now func() time.Time) *Directory {
	t.Helper()
	d, err := Open(path, root, Options{Signer: key, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestStatement(t *testing.T) {
	root, rootKey := newSigner(t)
	second, secondKey := newSigner(t)
	unused, _ := newSigner(t)
	path := filepath.Join(t.TempDir(), "log")
	d := openSigned(t, path, root, rootKey, nil)
	sign := func(d *Directory) []byte {
		t.Helper()
		raw, err := d.Sign("test", []byte("the valve is open"))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	byRoot := sign(d)
	if _, err := d.Put(Signer{Key: unused}, Signer{Key: second}); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d = openSigned(t, path, root, secondKey, nil)
	defer d.Close()
	bySecond := sign(d)
	for _, raw := range [][]byte{byRoot, bySecond} {
		got, err := OpenStatement(raw, root, "test")
		if err != nil || string(got) != "the valve is open" {
			t.Errorf("%q, %v", got, err)
		}
		for i := range raw {
			bad := bytes.Clone(raw)
			bad[i] ^= 1
			if _, err := OpenStatement(bad, root, "test"); err == nil {
				t.Fatalf("byte %d can be changed", i)
			}
		}
	}

	var s statement
	if err := decoding.Unmarshal(bySecond, &s); err != nil {
		t.Fatal(err)
	}
	encode := func(s statement) []byte {
		t.Helper()
		b, err := encoding.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if len(s.Signers) != 1 {
		t.Errorf("%d signer records, want the one that is needed", len(s.Signers))
	}
	for name, tt := range map[string]struct {
		raw     []byte
		root    ed25519.PublicKey
		purpose string
		want    string
	}{
		"another root":       {byRoot, unused, "test", "did not sign"},
		"another root, too":  {bySecond, unused, "test", "chain of signers"},
		"no root":            {byRoot, nil, "test", "root key"},
		"another purpose":    {byRoot, root, "tes", "did not sign"},
		"without its chain":  {encode(statement{nil, s.Payload, s.Signature}), root, "test", "statement"},
		"a chain twice":      {encode(statement{[][]byte{s.Signers[0], s.Signers[0]}, s.Payload, s.Signature}), root, "test", "chain of signers"},
		"an endless chain":   {encode(statement{make([][]byte, maxStatementSigners+1), s.Payload, s.Signature}), root, "test", "signers, at most"},
		"a record of rubish": {encode(statement{[][]byte{{1, 2}}, s.Payload, s.Signature}), root, "test", "record"},
		"too large":          {make([]byte, maxStatement+1), root, "test", "at most"},
		"nothing":            {nil, root, "test", "EOF"},
	} {
		if got, err := OpenStatement(tt.raw, tt.root, tt.purpose); err == nil || got != nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %q, %v, want an error with %q", name, got, err, tt.want)
		}
	}
	replica, err := Open(filepath.Join(t.TempDir(), "log"), root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	if _, err := replica.Sign("test", nil); err == nil {
		t.Error("a replica signed")
	}
}

// A stamp lies behind all before it, whatever the clock and restarts do.
func TestStamp(t *testing.T) {
	root, key := newSigner(t)
	path := filepath.Join(t.TempDir(), "log")
	clock := time.Now().Add(30 * 365 * 24 * time.Hour)
	now := func() time.Time { return clock }
	d := openSigned(t, path, root, key, now)
	first := d.Stamp()
	if second := d.Stamp(); second <= first {
		t.Errorf("stamp %d after %d", second, first)
	}
	if err := d.signHead(); err != nil {
		t.Fatal(err)
	}
	last := d.Stamp()
	d.Close()
	clock = clock.Add(-30 * 365 * 24 * time.Hour)
	d = openSigned(t, path, root, key, now)
	defer d.Close()
	if err := d.signHead(); err != nil {
		t.Fatal(err)
	}
	if got := d.Stamp(); got <= last {
		t.Errorf("stamp %d after a restart, before that %d", got, last)
	}
}
