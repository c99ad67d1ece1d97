package directory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// DivergedError says that a peer's log and this node's contradict each other.
// No record was taken over. An operator must act: usually the writer was restored
// from a backup older than its replicas.
type DivergedError struct{ Here, There Point }

// Error names both positions and the way out.
func (e *DivergedError) Error() string {
	return fmt.Sprintf("directory here at %v and the peer's at %v contradict each other: if the writer was restored from an old backup, stop it and give it the log of the replica that has most", e.Here, e.There)
}

// Follow keeps this replica up to date from the node peer, which runs
// [Directory.Serve] at the other end of rw. A replica follows several nodes at
// once: each tells heads and new records, and one at a time is asked for the
// history that is missing here. Follow returns nil when ctx is done, an error
// when the stream ends or the peer sends anything wrong, and closes rw. Records
// that were stored by then stay.
func (d *Directory) Follow(ctx context.Context, peer identity.ID, rw io.ReadWriteCloser) error {
	defer rw.Close()
	if d.Writable() {
		return errors.New("the writer of the directory follows no other node")
	}
	parent := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { rw.Close() })
	defer stop()
	s := d.sources.add(peer)
	defer d.sources.remove(s)
	var talker sync.WaitGroup
	defer talker.Wait()
	talker.Go(func() { cancel(d.talk(ctx, s, rw)) })
	cancel(d.listen(s, rw))
	if parent.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow directory: %w", context.Cause(ctx))
}

// talk sends the hello, each new report, and the fetches that are this source's
// turn.
func (d *Directory) talk(ctx context.Context, s *source, w io.Writer) error {
	told := d.Report()
	if err := writeValue(w, frameHello, told); err != nil {
		return err
	}
	for ctx.Err() == nil {
		moved := d.progress()
		if r := d.Report(); r != told {
			told = r
			if err := writeValue(w, frameReport, r); err != nil {
				return err
			}
			continue
		}
		ask, changed, wait := d.sources.ask(s, moved.tip.Count, time.Now())
		if ask {
			if err := writeValue(w, frameFetch, moved.tip); err != nil {
				return err
			}
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-moved.changed:
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
	return ctx.Err()
}

// listen handles the messages of the source until the stream ends.
func (d *Directory) listen(s *source, r io.Reader) error {
	for {
		t, body, err := readMessage(r)
		if err != nil {
			return err
		}
		if err := d.handleFrame(s, t, body); err != nil {
			d.refused.Add(1)
			return err
		}
	}
}

func (d *Directory) handleFrame(s *source, t frameType, body []byte) error {
	switch t {
	case frameRecords:
		if _, err := d.acceptRecords(body); err != nil {
			return err
		}
		return d.acceptTold(s)
	case frameAnswer:
		advanced, err := d.acceptRecords(body)
		if err != nil {
			return err
		}
		d.sources.answered(s, advanced, d.Tip().Count)
		return d.acceptTold(s)
	case frameHead:
		return d.takeHead(s, body)
	case frameRefused:
		there, err := decodePoint(body)
		if err != nil {
			return err
		}
		return &DivergedError{Here: d.Tip(), There: there}
	case frameHello, frameFetch, frameReport:
	}
	return fmt.Errorf("message of type %d from a source", t)
}

// takeHead notes how far the source says that the writer's log goes.
func (d *Directory) takeHead(s *source, body []byte) error {
	h, err := decodeHead(body)
	if err != nil {
		return err
	}
	if old, proven := d.sources.head(s); proven && h.UnixMilli <= old.UnixMilli {
		return nil // before the signature: a repeated head costs nothing
	}
	d.sources.setHead(s, h, false)
	return d.acceptTold(s)
}

// acceptTold verifies the head that s told, and keeps the newest of all sources
// up to which the log goes. The signer of a head may be unknown because its
// record is in the missing history: such a head is a reason to ask for records
// and proves nothing.
func (d *Directory) acceptTold(s *source) error {
	if h, proven := d.sources.head(s); !proven && h.UnixMilli != 0 {
		known, err := d.verifyHead(h)
		if err != nil {
			return err
		}
		if known {
			d.sources.setHead(s, h, true)
		}
	}
	by, h := d.sources.newest(d.Tip().Count)
	if h.UnixMilli <= d.Head().UnixMilli {
		return nil
	}
	err := d.acceptHead(h)
	if err != nil && by != s {
		// The contradicting head is of another source, which hears it with its next head.
		d.sources.setHead(by, Head{}, false)
		return nil
	}
	return err
}

// acceptRecords verifies a batch as a whole and stores it as one frame. Records
// that this node has already, from another peer, are skipped. Records that do not
// follow the log directly are left out: a fetch brings them. It reports whether the
// log grew.
func (d *Directory) acceptRecords(body []byte) (grew bool, err error) {
	all, err := decodeEntries(body)
	if err != nil {
		return false, err
	}
	d.writing.Lock()
	defer d.writing.Unlock()
	s := d.newStage()
	for i := range all {
		e := &all[i]
		if known, err := d.holds(e); err != nil {
			return false, err
		} else if known {
			continue
		}
		if e.Seq > s.tip.Count+1 {
			break
		}
		p, err := s.index.admit(e, s.tip, s.clock, true)
		if err != nil {
			return false, err
		}
		s.add(*e, p)
	}
	return len(s.all) > 0, d.commit(s.all)
}

// holds reports whether e is in the log. Another record in its place is an
// error, and a contradiction only if a signer made both.
func (d *Directory) holds(e *entry) (bool, error) {
	here, ok, err := d.pointAt(e.Seq)
	if err != nil || !ok {
		return false, err
	}
	if here.Hash == e.hash() {
		return true, nil
	}
	key, known := d.index.signer(e.Signer)
	if !known {
		return false, fmt.Errorf("record %d: signer %x is not in the chain of signers", e.Seq, e.Signer)
	}
	if err := e.verify(key); err != nil {
		return false, err
	}
	return false, &DivergedError{Here: here, There: Point{e.Seq, e.hash()}}
}
