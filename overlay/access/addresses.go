package access

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/overlay"
)

// AddressProtocol is the overlay protocol that tells an agent where nodes are
// reached now.
const AddressProtocol = "hpmq-addresses/1"

// MaxAddresses bounds each list of [Addresses].
const MaxAddresses = 8

// Addresses are where an agent reaches nodes, host:port, the nearest first.
type Addresses struct {
	API  []string `json:"api"`
	MQTT []string `json:"mqtt"`
	Mesh []string `json:"mesh"`
}

func (a *Addresses) check() error {
	for _, list := range [][]string{a.API, a.MQTT, a.Mesh} {
		if len(list) > MaxAddresses {
			return fmt.Errorf("%d addresses, at most %d", len(list), MaxAddresses)
		}
		for _, addr := range list {
			if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
				return fmt.Errorf("address %q: want host:port", addr)
			}
		}
	}
	return nil
}

// addressTimeout bounds one delivery of addresses, the agent's fsync included.
const addressTimeout = 10 * time.Second

// SendAddresses tells the agent at the other end of s where nodes are reached,
// and returns nil once it keeps that. The caller closes the stream.
func SendAddresses(ctx context.Context, s *overlay.Stream, a *Addresses) error {
	ctx, cancel := context.WithTimeout(ctx, addressTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, s.Reset)
	err := writeFrame(s, a)
	if err == nil {
		err = readFrame(s, new(receipt))
	}
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("tell %s the nodes' addresses: %w", s.PeerID().Short(), noEOF(err))
	}
	return nil
}

// ReceiveAddresses returns the agent's handler of [AddressProtocol]. It gives what
// a node says to take, one at a time. The addresses prove nothing: who answers
// there must prove to be a node.
func ReceiveAddresses(take func(node identity.ID, a *Addresses) error) overlay.Handler {
	slot := make(chan struct{}, 1)
	return func(_ context.Context, s *overlay.Stream) {
		if s.PeerID().Kind != identity.Node {
			s.Reset()
			return
		}
		select {
		case slot <- struct{}{}:
			defer func() { <-slot }()
		default:
			s.Reset()
			return
		}
		var a Addresses
		err := s.SetDeadline(time.Now().Add(addressTimeout))
		if err == nil {
			err = readFrame(s, &a)
		}
		if err == nil {
			err = take(s.PeerID(), &a)
		}
		if err != nil {
			s.Reset()
			return
		}
		_ = writeFrame(s, &receipt{}) // the node tells it again if it hears nothing
	}
}
