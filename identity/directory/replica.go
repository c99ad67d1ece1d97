package directory

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/wake"
)

// Report is a node's own claim about its copy: how far its log goes and which policy
// it has in force.
type Report struct {
	Point  Point  `cbor:"1,keyasint"`
	Policy uint64 `cbor:"2,keyasint"` // version in force; zero is none
}

func decodeReport(b []byte) (Report, error) {
	var r Report
	if err := decoding.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("directory stream: report: %w", err)
	}
	return r, nil
}

// Replica is the last report of a node that followed this one. A captured node
// may report more than it acts on. But it can acknowledge only records that were sent
// to it.
type Replica struct {
	Report
	Heard     time.Time // by the clock of this node
	Connected bool      // the node follows this one now
}

// replicas are the last reports by node.
type replicas struct {
	mu      sync.Mutex // guards all below
	last    map[identity.ID]Replica
	streams map[identity.ID]int
	changed wake.Broadcast // at each report
}

// maxReplicas bounds the reports kept. Only nodes with a certificate of the
// fabric get so far, and a fabric has fewer nodes.
const maxReplicas = 4096

func (t *replicas) begin(node identity.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams[node]++
}

func (t *replicas) end(node identity.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streams[node]--; t.streams[node] > 0 {
		return
	}
	delete(t.streams, node)
	if r, ok := t.last[node]; ok {
		r.Connected = false
		t.last[node] = r
	}
	t.changed.Fire()
}

func (t *replicas) recordReport(node identity.ID, r Report, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.last[node]; !known && len(t.last) >= maxReplicas {
		return
	}
	t.last[node] = Replica{Report: r, Heard: now, Connected: true}
	t.changed.Fire()
}

// missing returns the nodes that are not known to hold count records, and a
// channel that is closed at the next report.
func (t *replicas) missing(count uint64, nodes []identity.ID) ([]identity.ID, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var missing []identity.ID
	for _, id := range nodes {
		if t.last[id].Point.Count < count {
			missing = append(missing, id)
		}
	}
	return missing, t.changed.Wait()
}

// Replicas returns the last report of each node that followed this one since it
// was opened.
func (d *Directory) Replicas() map[identity.ID]Replica {
	d.replicas.mu.Lock()
	defer d.replicas.mu.Unlock()
	return maps.Clone(d.replicas.last)
}

// AwaitReplicas returns once all of nodes have reported at least count records,
// or when ctx is done. It returns the nodes that have not.
func (d *Directory) AwaitReplicas(ctx context.Context, count uint64, nodes []identity.ID) []identity.ID {
	for {
		missing, changed := d.replicas.missing(count, nodes)
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return missing
		case <-changed:
		}
	}
}

// SetPolicyInForce says which version of the policy this node acts by. Other
// nodes learn it with the next report.
func (d *Directory) SetPolicyInForce(version uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.policyInForce != version {
		d.policyInForce = version
		d.changed.Fire()
	}
}

// Report returns this node's report for other nodes.
func (d *Directory) Report() Report {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return Report{Point: d.tip, Policy: d.policyInForce}
}
