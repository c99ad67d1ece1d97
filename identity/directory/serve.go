package directory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// streamBatch is how many bytes of records a server puts into one message, if
// the first does not exceed it alone.
const streamBatch = 256 << 10

var errTalks = errors.New("directory stream: the follower sent more than its hello")

// Serve answers one follower: it sends what the follower lacks, then new
// records and heads as they come. It returns when ctx is done or the follower
// leaves, nil in both cases, and closes rw. A follower whose log contradicts
// this one is told so and gets nothing: see [DivergedError].
func (d *Directory) Serve(ctx context.Context, rw io.ReadWriteCloser) error {
	defer rw.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { rw.Close() })
	defer stop()
	follower, err := readHello(rw)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("serve directory: %w", err)
	}
	var reader sync.WaitGroup
	reader.Go(func() { cancel(awaitEnd(rw)) }) // ends with rw
	err = d.feed(ctx, rw, follower)
	ended := context.Cause(ctx)
	rw.Close()
	reader.Wait()

	_, diverged := errors.AsType[*DivergedError](err)
	switch {
	case diverged:
		return fmt.Errorf("serve directory: %w", err)
	case errors.Is(ended, errTalks):
		return errTalks
	case err == nil || ended != nil:
		return nil
	}
	return fmt.Errorf("serve directory: %w", err)
}

func readHello(r io.Reader) (Point, error) {
	t, body, err := readMessage(r)
	if err != nil {
		return Point{}, err
	}
	if t != frameHello {
		return Point{}, fmt.Errorf("directory stream: message of type %d in place of the hello", t)
	}
	return decodePoint(body)
}

// awaitEnd waits for the follower to go away; it has nothing more to say.
func awaitEnd(r io.Reader) error {
	var b [1]byte
	if n, err := io.ReadFull(r, b[:]); n == 0 {
		return err
	}
	return errTalks
}

// feed sends the follower all it lacks, until ctx is done.
func (d *Directory) feed(ctx context.Context, w io.Writer, at Point) error {
	if err := d.meet(ctx, w, at); err != nil {
		return err
	}
	next := at.Count + 1
	var sent Head
	for ctx.Err() == nil {
		p := d.progress()
		switch {
		case next <= p.tip.Count:
			body, n, err := d.batch(next, p.tip.Count)
			if err != nil {
				return err
			}
			if err := writeMessage(w, frameRecords, body); err != nil {
				return err
			}
			next += n
		case p.head.UnixMilli > sent.UnixMilli:
			body, err := encoding.Marshal(p.head)
			if err != nil {
				return err
			}
			if err := writeMessage(w, frameHead, body); err != nil {
				return err
			}
			sent = p.head
		default:
			select {
			case <-ctx.Done():
			case <-p.changed:
			}
		}
	}
	return nil
}

// meet makes sure that the follower's log is a prefix of this one. A follower
// that is ahead of the writer never can be; one that is ahead of a replica may
// have to wait until the replica has caught up.
func (d *Directory) meet(ctx context.Context, w io.Writer, at Point) error {
	for {
		p := d.progress()
		here, ok, err := d.pointAt(at.Count)
		if err != nil {
			return err
		}
		if ok && here == at {
			return nil
		}
		if ok || d.Writable() {
			err := writePoint(w, frameRefused, p.tip)
			return errors.Join(&DivergedError{Here: p.tip, There: at}, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
		}
	}
}

// batch returns the raw records from first on that fit into one message.
func (d *Directory) batch(first, last uint64) (body []byte, n uint64, err error) {
	for seq := first; seq <= last; seq++ {
		e, err := d.entry(seq)
		if err != nil {
			return nil, 0, err
		}
		if n > 0 && len(body)+len(e.raw) > streamBatch {
			break
		}
		body = append(body, e.raw...)
		n++
	}
	return body, n, nil
}
