package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/overlay"
)

// protocolModule is the mesh protocol that fetches a function's module by hash.
const protocolModule = "hpmq-module/1"

// modules keeps the functions' WebAssembly modules by hash. It fetches the modules
// that the directory names and this node lacks.
type modules struct {
	dir string
}

func (m *modules) path(sum [32]byte) string {
	return filepath.Join(m.dir, hex.EncodeToString(sum[:])+".wasm")
}

// load returns a module that is on disk and unchanged.
func (m *modules) load(sum [32]byte) ([]byte, error) {
	code, err := os.ReadFile(m.path(sum))
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(code) != sum {
		return nil, fmt.Errorf("%s does not have the content that its name promises", m.path(sum))
	}
	return code, nil
}

// save keeps a module and returns its hash.
func (m *modules) save(code []byte) ([32]byte, error) {
	sum := sha256.Sum256(code)
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return sum, err
	}
	return sum, atomicfile.Write(m.path(sum), code, 0o600)
}

// serve sends one module to a node.
func (m *modules) serve(_ context.Context, s *overlay.Stream) {
	defer s.Close()
	if err := s.SetReadDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return
	}
	var sum [32]byte
	if _, err := io.ReadFull(s, sum[:]); err != nil {
		return
	}
	f, err := os.Open(m.path(sum))
	if err != nil {
		return // an empty answer: not here
	}
	defer f.Close()
	_, _ = io.Copy(s, f) // a peer that left asks again
	_ = s.CloseWrite()
}
