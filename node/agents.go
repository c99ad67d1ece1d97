package node

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/internal/logfield"
)

// agentsName is the file with the addresses that agents are connected from.
const agentsName = "agents.json"

// rememberAgents knocks where agents were connected from when this node was last
// killed, and keeps on disk where they are now.
func (m *mesh) rememberAgents(ctx context.Context, path string) error {
	var kept []netip.AddrPort
	if raw, err := os.ReadFile(path); err == nil && json.Unmarshal(raw, &kept) == nil {
		m.overlay.Knock(kept)
		sleep(ctx, retryInterval, nil)
		m.overlay.Knock(kept) // the first may be lost
	}
	for ctx.Err() == nil {
		changed := m.overlay.Changed()
		if now := m.agentAddrs(); !slices.Equal(now, kept) {
			if err := keepAgents(path, now); err != nil {
				m.log.WithError(err).WithField(logfield.File, path).Warn("agents may need a while to come back should this node be killed")
			}
			kept = now
		}
		sleep(ctx, retryInterval, nil) // many may come or go at once
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return nil
}

func (m *mesh) agentAddrs() []netip.AddrPort {
	addrs := []netip.AddrPort{}
	for _, p := range m.overlay.Peers() {
		if p.ID.Kind == identity.Device {
			addrs = append(addrs, p.Remote)
		}
	}
	return addrs
}

func keepAgents(path string, addrs []netip.AddrPort) error {
	raw, err := json.Marshal(addrs)
	if err != nil {
		return err
	}
	return atomicfile.Replace(path, raw, 0o600)
}

// agents are the devices that are connected to this node's mesh port.
func (m *mesh) agents() map[identity.ID]time.Time {
	connected := map[identity.ID]time.Time{}
	for _, p := range m.overlay.Peers() {
		if p.ID.Kind == identity.Device {
			connected[p.ID] = p.Since
		}
	}
	return connected
}
