package access

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/overlay"
)

// SliceProtocol is the overlay protocol that brings an agent its rules.
const SliceProtocol = "hpmq-slice/2"

// MaxSlice is the size of the largest signed slice that is delivered. A slice
// names every caller, so that of a device in a large fabric is not small.
const MaxSlice = 4 << 20

// maxDeliveries bounds the slices that an agent receives at a time.
const maxDeliveries = 4

// sliceTimeout bounds a delivery, the agent's fsync included.
const sliceTimeout = 10 * time.Second

// receipt is an agent's reply to a slice.
type receipt struct {
	Refused string `json:"refused,omitempty"` // why it does not act by it
}

func (*receipt) check() error { return nil }

// SendSlice delivers a signed slice on a stream of [SliceProtocol] to an agent,
// and returns nil once the agent acts by it. The caller closes the stream.
func SendSlice(ctx context.Context, s *overlay.Stream, slice []byte) error {
	agent := s.PeerID().Short()
	if len(slice) > MaxSlice {
		return fmt.Errorf("slice of %s has %d bytes, at most %d", agent, len(slice), MaxSlice)
	}
	ctx, cancel := context.WithTimeout(ctx, sliceTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, s.Reset)
	err := deliver(s, slice)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("deliver slice to %s: %w", agent, err)
	}
	return nil
}

func deliver(s io.ReadWriter, slice []byte) error {
	msg := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(slice)), uint32(len(slice)))
	if _, err := s.Write(append(msg, slice...)); err != nil {
		return err
	}
	var r receipt
	if err := readFrame(s, &r); err != nil {
		return noEOF(err)
	}
	if r.Refused != "" {
		return fmt.Errorf("%w: %s", ErrRefused, printable(r.Refused))
	}
	return nil
}

// ReceiveSlice returns the agent's handler of [SliceProtocol]. It calls take with each
// slice that a node brings. take verifies the slice, keeps it and acts by it before it
// returns nil. Several slices may come at once. A node only carries a slice: the
// directory's writer must have signed it. A slice above [MaxSlice] is not read;
// tooLarge is called instead.
func ReceiveSlice(take func(node identity.ID, slice []byte) error, tooLarge func(node identity.ID, err error)) overlay.Handler {
	slots := make(chan struct{}, maxDeliveries)
	return func(_ context.Context, s *overlay.Stream) {
		if s.PeerID().Kind != identity.Node {
			s.Reset()
			return
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			s.Reset()
			return
		}
		if err := s.SetDeadline(time.Now().Add(sliceTimeout)); err != nil {
			return
		}
		b, err := readSlice(s)
		if err != nil {
			if errors.Is(err, errLargeSlice) {
				tooLarge(s.PeerID(), err)
			}
			s.Reset()
			return
		}
		var r receipt
		if err := take(s.PeerID(), b); err != nil {
			r.Refused = clip(err.Error())
		}
		_ = writeFrame(s, &r) // the node sends it again if it hears nothing
	}
}

var errLargeSlice = errors.New("slice is too large")

func readSlice(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > MaxSlice {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errLargeSlice, n, MaxSlice)
	}
	var b bytes.Buffer // grows with the bytes that arrive, not with the announced size
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return nil, noEOF(err)
	}
	return b.Bytes(), nil
}
