package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/funcs"
	"github.com/hpmq/hpmq/funcs/wasm"
	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/policy"
)

// functions loads the fabric's functions on this node. It fetches their modules and
// gives the runtime the modules that compile, with the rights that policy grants.
type functions struct {
	domain, site string
	modules      *modules
	mesh         *mesh
	directory    *directory.Directory
	policy       func() *policy.Set
	engine       *wasm.Engine
	runtime      *funcs.Runtime
	swapped      func() // called after each swap
	log          logrus.FieldLogger

	swapping sync.Mutex // one swap at a time
	// faults says of each function that was to be loaded why it is not, or "".
	faults atomic.Pointer[map[string]string]
}

// module returns the code of a directory record, asking the other nodes when it
// is not on disk.
func (f *functions) module(ctx context.Context, rec directory.Function) ([]byte, error) {
	code, err := f.modules.load(rec.SHA256)
	if err == nil {
		return code, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		f.log.WithError(err).Warn("function module damaged, fetching it again")
	}
	for _, source := range f.mesh.connectedNodes() {
		if code, err := f.fetch(ctx, source, rec); err == nil {
			_, err = f.modules.save(code)
			return code, err
		}
	}
	return nil, fmt.Errorf("module %x of function %s is on no node that answers", rec.SHA256[:6], rec.Name)
}

func (f *functions) fetch(ctx context.Context, source identity.ID, rec directory.Function) ([]byte, error) {
	s, err := f.mesh.overlay.Open(ctx, source, protocolModule)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	if _, err := s.Write(rec.SHA256[:]); err != nil {
		return nil, err
	}
	code, err := io.ReadAll(io.LimitReader(s, control.MaxModule+1))
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(code) != rec.SHA256 {
		return nil, fmt.Errorf("%s has no such module", source.Short())
	}
	return code, nil
}

// swap loads the functions that the directory names, with the rights that policy
// grants. It leaves out a function that cannot be loaded: the on_error of the
// function's bindings then decides.
func (f *functions) swap(ctx context.Context) {
	f.swapping.Lock()
	defer f.swapping.Unlock()
	faults := map[string]string{} // of each function; "" when it is loaded
	told := map[string]string{}   // faults of the last time, which comes again every few seconds
	if last := f.faults.Load(); last != nil {
		told = *last
	}
	fault := func(name string, err error) {
		if faults[name] = err.Error(); told[name] != faults[name] {
			f.log.WithField(logfield.Function, name).WithError(err).Error("function not loaded")
		}
	}
	var all []funcs.Function
	for name, rec := range f.directory.Functions() {
		one, err := f.prepare(ctx, rec)
		if err != nil {
			fault(name, err)
			continue
		}
		all = append(all, one)
		faults[name] = ""
	}
	for ctx.Err() == nil {
		err := f.runtime.Swap(ctx, all)
		if err == nil {
			break
		}
		bad, ok := errors.AsType[*funcs.LoadError](err)
		if !ok {
			f.log.WithError(err).Error("functions not changed")
			break
		}
		fault(bad.Function, bad)
		all = slices.DeleteFunc(all, func(one funcs.Function) bool { return one.Name == bad.Function })
	}
	f.faults.Store(&faults)
	f.swapped()
}

// missing reports whether a function could not be loaded.
func (f *functions) missing() bool {
	faults := f.faults.Load()
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

func (f *functions) prepare(ctx context.Context, rec directory.Function) (funcs.Function, error) {
	code, err := f.module(ctx, rec)
	if err != nil {
		return funcs.Function{}, err
	}
	rights := f.policy().Session(policy.Subject{ID: functionID(f.domain, rec.Name), SessionSite: f.site}).Function()
	if _, err := wasm.ParseCapabilities(rights.Capabilities); err != nil {
		return funcs.Function{}, fmt.Errorf("policy: %w", err)
	}
	return funcs.Function{
		Name: rec.Name, Code: code, Capabilities: rights.Capabilities,
		Limits: wasm.Limits{Memory: uint64(rights.Memory), Time: rights.Timeout},
	}, nil
}

// list tells of each function of the fabric, by name.
func (f *functions) list() []control.Function {
	bindings := map[string][]string{}
	for _, b := range f.policy().AllBindings() {
		bindings[b.Function] = append(bindings[b.Function], b.Name)
	}
	faults := map[string]string{}
	if p := f.faults.Load(); p != nil {
		faults = *p
	}
	out := []control.Function{}
	for name, rec := range f.directory.Functions() {
		fault, tried := faults[name]
		one := control.Function{
			Name: name, SHA256: hex.EncodeToString(rec.SHA256[:]), Size: int64(rec.Size), Bindings: bindings[name],
			Error: fault, Loaded: tried && fault == "",
		}
		if one.Bindings == nil {
			one.Bindings = []string{}
		}
		for _, s := range f.runtime.Stats() {
			if s.Function == name {
				one.Calls = s.Calls
				for _, count := range s.Faults {
					one.Errors += count
				}
			}
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b control.Function) int { return strings.Compare(a.Name, b.Name) })
	return out
}
