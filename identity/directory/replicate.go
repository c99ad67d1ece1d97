package directory

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
)

// Mesh is what [Directory.Replicate] needs of the network.
type Mesh interface {
	// Sources returns the nodes that are connected now, and a channel that is
	// closed when that changes.
	Sources() (nodes []identity.ID, changed <-chan struct{})
	// Open opens a stream to a node that has proven its identity.
	Open(ctx context.Context, node identity.ID) (io.ReadWriteCloser, error)
}

// A stream that failed is opened again after followPause, which doubles to
// followPauseMax while the source goes on failing. A stream that lasted
// followSteady did not fail, it ended with its connection.
const (
	followPause    = 500 * time.Millisecond
	followPauseMax = 30 * time.Second
	followSteady   = 5 * time.Second
)

// Replicate follows every connected node until ctx is done. It makes no choice among
// them: a node that lags, is silent or lies takes nothing away from the records of
// the other nodes.
func (d *Directory) Replicate(ctx context.Context, m Mesh) error {
	var following sync.WaitGroup
	defer following.Wait()
	followed := map[identity.ID]context.CancelFunc{}
	defer func() {
		for _, stop := range followed {
			stop()
		}
	}()
	for {
		nodes, changed := m.Sources()
		connected := make(map[identity.ID]bool, len(nodes))
		for _, id := range nodes {
			connected[id] = true
			if followed[id] != nil {
				continue
			}
			of, stop := context.WithCancel(ctx)
			followed[id] = stop
			following.Go(func() { d.followNode(of, m, id) })
		}
		for id, stop := range followed {
			if !connected[id] {
				stop()
				delete(followed, id)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// followNode keeps a stream to one node open until ctx is done.
func (d *Directory) followNode(ctx context.Context, m Mesh, id identity.ID) {
	pause, told := followPause, ""
	for {
		began := time.Now()
		err := d.followOnce(ctx, m, id)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= followSteady {
			pause = followPause
		}
		if text := err.Error(); text != told {
			told = text
			d.logSource(id, err)
		}
		wait := time.NewTimer(pause)
		pause = min(2*pause, followPauseMax)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
	}
}

func (d *Directory) followOnce(ctx context.Context, m Mesh, id identity.ID) error {
	rw, err := m.Open(ctx, id)
	if err != nil {
		return err
	}
	return d.Follow(ctx, id, rw)
}

func (d *Directory) logSource(id identity.ID, err error) {
	log := d.log.WithFields(logrus.Fields{logfield.Peer: id.String(), logfield.Reason: err.Error()})
	if _, diverged := errors.AsType[*DivergedError](err); diverged {
		log.Error("directory: this node and another hold different histories; one of them was restored from an old copy")
		return
	}
	log.Info("directory: lost the source, trying again")
}
