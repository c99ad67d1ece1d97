package main

import (
	"context"
	"errors"
	"reflect"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay"
	"github.com/hpmq/hpmq/overlay/access"
)

// keepAddresses tells an agent that is connected here where nodes are reached, now
// and after each change: the addresses of its enrolment age.
func (n *node) keepAddresses(ctx context.Context, id identity.ID) {
	var told *access.Addresses
	for ctx.Err() == nil {
		changed := n.changes.nodes.wait()
		if now := n.addressesFor(id); told == nil || !reflect.DeepEqual(told, now) {
			err := n.tellAddresses(ctx, id, now)
			switch {
			case errors.Is(err, overlay.ErrUnknownProtocol):
				return // an agent of an earlier version
			case err != nil:
				n.log.WithField(logfield.Peer, id.String()).WithError(err).Debug("addresses not accepted yet")
				sleep(ctx, retryInterval, changed)
				continue
			}
			told = now
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

func (n *node) tellAddresses(ctx context.Context, id identity.ID, a *access.Addresses) error {
	s, err := n.overlay.Open(ctx, id, access.AddressProtocol)
	if err != nil {
		return err
	}
	defer s.Close()
	return access.SendAddresses(ctx, s, a)
}

// addressesFor lists the nodes that id may try, the nearest first.
func (n *node) addressesFor(id identity.ID) *access.Addresses {
	known, _ := n.directory.Identity(id)
	nodes := authority.Nearest(n.directory, id, known.Site)
	a := authority.AddressesOf(nodes, access.MaxAddresses)
	return &access.Addresses{API: a.API, MQTT: a.MQTT, Mesh: a.Mesh}
}
