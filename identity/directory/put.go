package directory

import (
	"errors"
	"fmt"

	"github.com/hpmq/hpmq/internal/hlc"
)

// maxBatch is the size at which a commit stops to gather more.
const maxBatch = 1 << 20

// put is one call of Put on its way to the disk. Once it has left the queue the
// holder of writing owns it.
type put struct {
	payloads []Payload
	records  []Record
	err      error
	done     bool
}

// Put appends one record per payload, all or none of them, and returns once
// they are synced to disk and applied. Calls that wait for the disk at the same
// time share one sync. On an error nothing has changed.
func (d *Directory) Put(payloads ...Payload) ([]Record, error) {
	if !d.Writable() {
		return nil, ErrReplica
	}
	if len(payloads) == 0 {
		return nil, errors.New("put of no records")
	}
	p := &put{payloads: payloads}
	d.queueMu.Lock()
	d.queue = append(d.queue, p)
	d.queueMu.Unlock()

	d.writing.Lock()
	defer d.writing.Unlock()
	for !p.done {
		d.commitQueue()
	}
	return p.records, p.err
}

// commitQueue makes the oldest waiting puts durable together. The caller holds
// writing.
func (d *Directory) commitQueue() {
	s := d.newStage()
	var batch []*put
	for s.size < maxBatch {
		p := d.nextPut()
		if p == nil {
			break
		}
		batch = append(batch, p)
		fork := s.fork()
		if p.err = d.compose(fork, p.payloads); p.err != nil {
			continue
		}
		for i := range fork.all {
			p.records = append(p.records, fork.all[i].Record)
		}
		s.merge(fork)
	}
	err := d.commit(s.all)
	for _, p := range batch {
		p.done = true
		if p.err == nil && err != nil {
			p.records, p.err = nil, err
		}
	}
}

func (d *Directory) nextPut() *put {
	d.queueMu.Lock()
	defer d.queueMu.Unlock()
	if len(d.queue) == 0 {
		d.queue = nil // free the array
		return nil
	}
	p := d.queue[0]
	d.queue[0] = nil
	d.queue = d.queue[1:]
	return p
}

// compose signs one record per payload onto s.
func (d *Directory) compose(s *stage, payloads []Payload) error {
	for _, content := range payloads {
		if err := content.check(); err != nil {
			return err
		}
		if err := s.index.conflict(content); err != nil {
			return err
		}
		raw, err := encoding.Marshal(content)
		if err != nil {
			return fmt.Errorf("encode %s: %w", content.slot().Key, err)
		}
		at := content.slot()
		e := entry{Record: Record{
			Seq: s.tip.Count + 1, Kind: at.Kind, Key: at.Key, Version: s.index.version(at) + 1,
			HLC: hlc.Next(s.clock, d.now()), Payload: raw, Prev: s.tip.Hash,
		}}
		if err := e.checkSize(); err != nil {
			return err
		}
		if e.raw, err = e.sign(d.signer); err != nil {
			return fmt.Errorf("sign %s record: %w", at.Kind, err)
		}
		// Apply the content that replicas will read, not the caller's value.
		stored, err := e.Decode()
		if err != nil {
			return err
		}
		s.add(e, stored)
	}
	if s.size > maxFrame-maxBatch {
		return fmt.Errorf("put of %d bytes, at most %d at once", s.size, maxFrame-maxBatch)
	}
	return nil
}
