package directory

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// DivergedError says that a peer's log and this node's contradict each other.
// Nothing was taken over. Someone must act: usually the writer was restored
// from a backup older than its replicas.
type DivergedError struct{ Here, There Point }

// Error names both positions and says what to do.
func (e *DivergedError) Error() string {
	return fmt.Sprintf("directory here at %v and the peer's at %v contradict each other: if the writer was restored from an old backup, stop it and give it the log of the replica that has most", e.Here, e.There)
}

// Follow keeps this replica up to date from a peer that runs [Directory.Serve]:
// it says hello first, then verifies, stores and applies what comes. It returns
// nil when ctx is done, an error when the stream ends or the peer sends
// anything wrong, and closes rw. What was stored by then stays.
func (d *Directory) Follow(ctx context.Context, rw io.ReadWriteCloser) error {
	defer rw.Close()
	if d.Writable() {
		return errors.New("the writer of the directory follows nobody")
	}
	stop := context.AfterFunc(ctx, func() { rw.Close() })
	defer stop()
	err := d.follow(rw)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (d *Directory) follow(rw io.ReadWriter) error {
	if err := writePoint(rw, frameHello, d.Tip()); err != nil {
		return fmt.Errorf("follow directory: %w", err)
	}
	for {
		t, body, err := readMessage(rw)
		if err != nil {
			return fmt.Errorf("follow directory: %w", err)
		}
		if err := d.take(t, body); err != nil {
			return fmt.Errorf("follow directory: %w", err)
		}
	}
}

func (d *Directory) take(t frameType, body []byte) error {
	switch t {
	case frameRecords:
		return d.acceptRecords(body)
	case frameHead:
		h, err := decodeHead(body)
		if err != nil {
			return err
		}
		return d.acceptHead(h)
	case frameRefused:
		there, err := decodePoint(body)
		if err != nil {
			return err
		}
		return &DivergedError{Here: d.Tip(), There: there}
	case frameHello:
	}
	return fmt.Errorf("message of type %d", t)
}

// acceptRecords verifies a batch as a whole and stores it as one frame. Records
// that this node has already, from another peer, are skipped.
func (d *Directory) acceptRecords(body []byte) error {
	all, err := decodeEntries(body)
	if err != nil {
		return err
	}
	d.writing.Lock()
	defer d.writing.Unlock()
	s := d.newStage()
	for i := range all {
		e := &all[i]
		if known, err := d.holds(e); err != nil {
			return err
		} else if known {
			continue
		}
		p, err := s.index.admit(e, s.tip, s.clock, true)
		if err != nil {
			return err
		}
		s.add(*e, p)
	}
	return d.commit(s.all)
}

// holds reports whether e is in the log. Another record in its place is an error.
func (d *Directory) holds(e *entry) (bool, error) {
	here, ok, err := d.pointAt(e.Seq)
	if err != nil || !ok {
		return false, err
	}
	if here.Hash != e.hash() {
		return false, &DivergedError{Here: here, There: Point{e.Seq, e.hash()}}
	}
	return true, nil
}
