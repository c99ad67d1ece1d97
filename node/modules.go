package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hpmq/hpmq/funcs"
	"github.com/hpmq/hpmq/funcs/wasm"
	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/overlay"
	"github.com/hpmq/hpmq/policy"
)

// protocolModule is the mesh protocol that fetches a function's module by hash.
const protocolModule = "hpmq-module/1"

// modules keeps the functions' WebAssembly modules by hash and fetches those
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

// module returns the code of a directory record, asking the other nodes when it
// is not on disk.
func (n *Node) module(ctx context.Context, f directory.Function) ([]byte, error) {
	code, err := n.modules.load(f.SHA256)
	if err == nil {
		return code, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		n.log.WithError(err).Warn("function module damaged, fetching it again")
	}
	for _, source := range n.connectedNodes() {
		if code, err := n.fetchModule(ctx, source, f); err == nil {
			_, err = n.modules.save(code)
			return code, err
		}
	}
	return nil, fmt.Errorf("module %x of function %s is on no node that answers", f.SHA256[:6], f.Name)
}

func (n *Node) fetchModule(ctx context.Context, source identity.ID, f directory.Function) ([]byte, error) {
	s, err := n.overlay.Open(ctx, source, protocolModule)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	if _, err := s.Write(f.SHA256[:]); err != nil {
		return nil, err
	}
	code, err := io.ReadAll(io.LimitReader(s, control.MaxModule+1))
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(code) != f.SHA256 {
		return nil, fmt.Errorf("%s has no such module", source.Short())
	}
	return code, nil
}

// swapFunctions loads what the directory names, with what policy grants. A
// function that cannot be loaded is left out: its bindings' on_error decides.
func (n *Node) swapFunctions(ctx context.Context) {
	n.swapping.Lock()
	defer n.swapping.Unlock()
	faults := map[string]string{} // of each function; "" when it is loaded
	told := map[string]string{}   // faults of the last time, which comes again every few seconds
	if last := n.functionFaults.Load(); last != nil {
		told = *last
	}
	fault := func(name string, err error) {
		if faults[name] = err.Error(); told[name] != faults[name] {
			n.log.WithField(logfield.Function, name).WithError(err).Error("function not loaded")
		}
	}
	var all []funcs.Function
	for name, rec := range n.directory.Functions() {
		f, err := n.prepare(ctx, rec)
		if err != nil {
			fault(name, err)
			continue
		}
		all = append(all, f)
		faults[name] = ""
	}
	for ctx.Err() == nil {
		err := n.funcs.Swap(ctx, all)
		if err == nil {
			break
		}
		bad, ok := errors.AsType[*funcs.LoadError](err)
		if !ok {
			n.log.WithError(err).Error("functions not changed")
			break
		}
		fault(bad.Function, bad)
		all = slices.DeleteFunc(all, func(f funcs.Function) bool { return f.Name == bad.Function })
	}
	n.functionFaults.Store(&faults)
	n.filter.reset()
	n.broker.Reroute()
}

// functionsMissing reports whether a function could not be loaded.
func (n *Node) functionsMissing() bool {
	faults := n.functionFaults.Load()
	if faults == nil {
		return false
	}
	for _, fault := range *faults {
		if fault != "" {
			return true
		}
	}
	return false
}

func (n *Node) prepare(ctx context.Context, rec directory.Function) (funcs.Function, error) {
	code, err := n.module(ctx, rec)
	if err != nil {
		return funcs.Function{}, err
	}
	rights := n.policy.Set().Session(policy.Subject{ID: n.functionID(rec.Name), SessionSite: n.site}).Function()
	if _, err := wasm.ParseCapabilities(rights.Capabilities); err != nil {
		return funcs.Function{}, fmt.Errorf("policy: %w", err)
	}
	return funcs.Function{
		Name: rec.Name, Code: code, Capabilities: rights.Capabilities,
		Limits: wasm.Limits{Memory: uint64(rights.Memory), Time: rights.Timeout},
	}, nil
}
