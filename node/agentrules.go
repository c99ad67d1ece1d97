package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
	"github.com/hpmq/hpmq/policy/slice"
)

// protocolRules asks the writer of the directory for the slices of agents.
const protocolRules = "hpmq-rules/1"

// Bounds on the slices that a node keeps for its agents.
const (
	rulesDirName   = "rules"
	maxKeptSlices  = 16384
	maxKeptBytes   = 256 << 20
	maxRuleMessage = 1 << 10
)

// ruleQuestion says that a node serves a device and which slice it holds for it.
type ruleQuestion struct {
	ID   identity.ID `json:"id"`
	Drop bool        `json:"drop,omitempty"` // the node no longer serves the device
	heldSlice
}

func (q *ruleQuestion) device() (identity.ID, error) {
	if q.ID.Kind != identity.Device {
		return identity.ID{}, fmt.Errorf("asks for the rules of %q, which is no device", q.ID)
	}
	return q.ID, nil
}

func readJSON(r io.Reader, v any) error {
	b, err := readBlock(r, maxRuleMessage)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeBlock(w, b)
}

// writeBlock writes b behind its length.
func writeBlock(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...)) //nolint:gosec // bounded by its makers
	return err
}

var errLargeBlock = errors.New("message is too large")

func readBlock(r io.Reader, limit uint32) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errLargeBlock, n, limit)
	}
	var b bytes.Buffer // grows with the bytes that arrive, not with the announced size
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// agentRules are the slices of the agents that this node serves. They are kept on
// disk, so that an agent gets its slice also while the writer is away.
type agentRules struct {
	dir     string
	root    ed25519.PublicKey
	log     logrus.FieldLogger
	arrived wake.Broadcast // a slice has come
	asked   wake.Broadcast // the set of served agents has changed
	refused slice.Refusals

	mu    sync.Mutex // guards held and space
	held  map[identity.ID]*servedAgent
	space keptSpace
}

// servedAgent is an agent that is connected to this node, with its slice.
type servedAgent struct {
	heldSlice

	conns  int    // its connections to this node
	unkept []byte // the slice, if it could not be written
}

func newAgentRules(dir string, root ed25519.PublicKey, log logrus.FieldLogger) (*agentRules, error) {
	r := &agentRules{dir: dir, root: root, log: log, held: map[identity.ID]*servedAgent{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	r.space.dir = dir
	return r, r.space.measure()
}

func sliceFile(device identity.ID) string { return string(device.Kind) + "." + device.Name }

// startServing counts a connection of device that is served here from now on, until
// stopServing.
func (r *agentRules) startServing(device identity.ID) {
	r.mu.Lock()
	if a := r.held[device]; a != nil {
		a.conns++
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	a := &servedAgent{}
	if s, err := slice.Open(r.readFile(device), r.root, device); err == nil {
		a.heldSlice = heldOf(s)
	}
	r.mu.Lock()
	if r.held[device] == nil {
		r.held[device] = a
	}
	r.held[device].conns++
	r.mu.Unlock()
	r.asked.Fire()
}

// stopServing undoes startServing.
func (r *agentRules) stopServing(device identity.ID) {
	r.mu.Lock()
	a := r.held[device]
	if a.conns--; a.conns == 0 {
		delete(r.held, device)
	}
	r.mu.Unlock()
	r.asked.Fire()
}

// read returns the slice of a device that is served.
func (r *agentRules) read(device identity.ID) []byte {
	r.mu.Lock()
	a := r.held[device]
	r.mu.Unlock()
	if a != nil && a.unkept != nil {
		return a.unkept
	}
	return r.readFile(device)
}

// readFile returns the kept slice of device, nil for none. Its agent judges it.
func (r *agentRules) readFile(device identity.ID) []byte {
	f, err := os.Open(filepath.Join(r.dir, sliceFile(device)))
	if err != nil {
		return nil
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, slice.MaxBytes+1))
	if err != nil {
		return nil
	}
	return raw
}

// issued returns when the slice held for device was issued, 0 for none.
func (r *agentRules) issued(device identity.ID) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.held[device]; a != nil {
		return a.Issued
	}
	return 0
}

// storeSlice checks and keeps a slice that came from the writer.
func (r *agentRules) storeSlice(raw []byte) error {
	s, err := slice.Open(raw, r.root, identity.ID{})
	if err != nil {
		r.refused.Count(slice.ReasonOf(err))
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.held[s.Target]
	if a != nil && s.Issued < a.Issued {
		r.refused.Count(slice.Earlier)
	}
	if a == nil || s.Issued <= a.Issued {
		return nil
	}
	now := &servedAgent{heldSlice: heldOf(s), conns: a.conns}
	if err := r.space.write(sliceFile(s.Target), raw, r.isServed); err != nil {
		now.unkept = raw
		r.log.WithField(logfield.SPIFFEID, s.Target.String()).WithField(logfield.Reason, err.Error()).
			Warn("rules of an agent not kept: after a restart this node asks for them again")
	}
	r.held[s.Target] = now
	r.arrived.Fire()
	return nil
}

// warning reports slices from other nodes that no honest node sends, "" for none.
func (r *agentRules) warning() string {
	counts := r.refused.Counts()
	for _, honest := range []slice.Reason{slice.Earlier, refusedByAgent} {
		delete(counts, honest)
	}
	if len(counts) == 0 {
		return ""
	}
	return fmt.Sprintf("rules of agents that another node sent were refused since the start of this one: %s", counts)
}

// isServed reports whether a file belongs to an agent that is served. The caller
// holds mu.
func (r *agentRules) isServed(file string) bool {
	for device := range r.held {
		if sliceFile(device) == file {
			return true
		}
	}
	return false
}

// follow asks the writer for slices until ctx is done. open makes a stream to it.
func (r *agentRules) follow(ctx context.Context, changed func() <-chan struct{}, open func(context.Context) (net.Conn, error)) error {
	for ctx.Err() == nil {
		retry := changed()
		conn, err := open(ctx)
		if err == nil {
			err = r.followOnce(ctx, conn)
			conn.Close()
		}
		if ctx.Err() != nil {
			break
		}
		r.log.WithField(logfield.Reason, err.Error()).Debug("no rules from the directory's writer")
		sleep(ctx, retryInterval, retry)
	}
	return nil
}

// followOnce asks on one stream until it ends.
func (r *agentRules) followOnce(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) })()
	asking.Go(func() { cancel(r.ask(ctx, conn)) })
	for {
		raw, err := readBlock(conn, slice.MaxBytes)
		if errors.Is(err, errLargeBlock) {
			r.refused.Count(slice.TooLarge)
		}
		if err == nil {
			err = r.storeSlice(raw)
		}
		if err != nil {
			cancel(err)
			return context.Cause(ctx)
		}
	}
}

// ask tells the writer which agents are served, now and after each change.
func (r *agentRules) ask(ctx context.Context, conn net.Conn) error {
	told := map[identity.ID]bool{}
	for {
		asked := r.asked.Wait()
		r.mu.Lock()
		var questions []ruleQuestion
		for device, held := range r.held {
			if !told[device] {
				told[device] = true
				questions = append(questions, ruleQuestion{ID: device, heldSlice: held.heldSlice})
			}
		}
		for device := range told {
			if _, ok := r.held[device]; !ok {
				delete(told, device)
				questions = append(questions, ruleQuestion{ID: device, Drop: true})
			}
		}
		r.mu.Unlock()
		for i := range questions {
			if err := writeJSON(conn, &questions[i]); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-asked:
		}
	}
}

// keptSpace is a directory of files, bounded in number and size.
type keptSpace struct {
	dir   string
	count int
	bytes int64
}

// measure counts the slices on disk.
func (k *keptSpace) measure() error {
	k.count, k.bytes = 0, 0
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			k.count, k.bytes = k.count+1, k.bytes+info.Size()
		}
	}
	return nil
}

// write replaces a file. Beyond the bounds the oldest files go that are not needed.
func (k *keptSpace) write(name string, b []byte, needed func(name string) bool) error {
	path := filepath.Join(k.dir, name)
	old, err := os.Stat(path)
	if err := atomicfile.Replace(path, b, 0o600); err != nil {
		return err
	}
	if err == nil {
		k.count, k.bytes = k.count-1, k.bytes-old.Size()
	}
	k.count, k.bytes = k.count+1, k.bytes+int64(len(b))
	if k.count <= maxKeptSlices && k.bytes <= maxKeptBytes {
		return nil
	}
	return k.makeRoom(needed)
}

func (k *keptSpace) makeRoom(needed func(name string) bool) error {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return err
	}
	var files []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !needed(e.Name()) {
			files = append(files, info)
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files[:(len(files)+1)/2] {
		if err := os.Remove(filepath.Join(k.dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return k.measure()
}

// followRules keeps the slices of this node's agents up to date.
func (n *Node) followRules(ctx context.Context) error {
	if n.rulebook == nil {
		return n.agentRules.follow(ctx, n.overlay.Changed, func(ctx context.Context) (net.Conn, error) {
			s, err := n.mesh.openToCA(ctx, protocolRules)
			if err != nil {
				return nil, err // not s: a nil *Stream is not a nil net.Conn
			}
			return s, nil
		})
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	return n.agentRules.follow(ctx, n.overlay.Changed, func(ctx context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		serving.Go(func() {
			defer far.Close()
			n.rulebook.logEnd(ctx, n.id, n.rulebook.serve(ctx, far))
		})
		return near, nil
	})
}
