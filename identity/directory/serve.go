package directory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/wake"
)

// streamBatch is how many bytes of records a server puts into one message, if
// the first does not exceed it alone.
const streamBatch = 64 << 10

// Serve answers the node follower: it tells the newest head and each new record
// as they come, and sends older records one batch for each fetch. It returns
// when ctx is done or the follower leaves, nil in both cases, and closes rw. A
// follower with a log that contradicts this one hears that and gets nothing: see
// [DivergedError].
func (d *Directory) Serve(ctx context.Context, follower identity.ID, rw io.ReadWriteCloser) error {
	defer rw.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { rw.Close() })
	defer stop()
	first, err := readHello(rw)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("serve directory: %w", err)
	}
	f := &feed{d: d, follower: follower, wake: wake.NewToken()}
	d.replicas.begin(follower)
	defer d.replicas.end(follower)
	f.setReport(first)
	var reader sync.WaitGroup
	reader.Go(func() { cancel(f.listen(rw)) }) // ends with rw
	err = f.run(ctx, rw)
	ended := context.Cause(ctx)
	rw.Close()
	reader.Wait()

	_, diverged := errors.AsType[*DivergedError](err)
	_, protocol := errors.AsType[*protocolError](ended)
	if diverged || protocol {
		d.refused.Add(1)
	}
	switch {
	case diverged:
		return fmt.Errorf("serve directory: %w", err)
	case protocol:
		return fmt.Errorf("serve directory: %w", ended)
	case err == nil || ended != nil:
		return nil
	}
	return fmt.Errorf("serve directory: %w", err)
}

// protocolError is the error of a peer that breaks the protocol, as opposed to one
// that left.
type protocolError struct{ err error }

// Error implements error.
func (e *protocolError) Error() string { return e.err.Error() }

func readHello(r io.Reader) (Report, error) {
	t, body, err := readMessage(r)
	if err != nil {
		return Report{}, err
	}
	if t != frameHello {
		return Report{}, fmt.Errorf("directory stream: message of type %d in place of the hello", t)
	}
	return decodeReport(body)
}

// feed is one follower's stream. One goroutine reads, one writes.
type feed struct {
	d        *Directory
	follower identity.ID
	wake     wake.Token // the writer has something to look at

	mu     sync.Mutex // guards all below
	report Report
	fetch  *Point // asked for and not answered
}

// listen takes the follower's reports and fetches until the stream ends. Of
// several fetches that wait only the newest is answered.
func (f *feed) listen(r io.Reader) error {
	for {
		t, body, err := readMessage(r)
		if err != nil {
			return err
		}
		switch t {
		case frameReport:
			report, err := decodeReport(body)
			if err != nil {
				return &protocolError{err}
			}
			f.setReport(report)
		case frameFetch:
			at, err := decodePoint(body)
			if err != nil {
				return &protocolError{err}
			}
			f.mu.Lock()
			f.fetch = &at
			f.mu.Unlock()
			f.wake.Wake()
		case frameHello, frameRecords, frameHead, frameRefused, frameAnswer:
			return &protocolError{fmt.Errorf("directory stream: message of type %d from a follower", t)}
		}
	}
}

func (f *feed) setReport(r Report) {
	f.mu.Lock()
	f.report = r
	f.mu.Unlock()
	f.wake.Wake()
}

// next takes the fetch that waits, if any, and returns the newest report.
func (f *feed) next() (Report, *Point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fetch := f.fetch
	f.fetch = nil
	return f.report, fetch
}

// run sends to the follower until ctx is done. Records that were in the log
// before the stream began are sent on request only. As a rule the follower has them.
// If not, it asks one of its sources and not all.
func (f *feed) run(ctx context.Context, w io.Writer) error {
	push := f.d.Tip().Count + 1
	var told Report
	var sent Head
	for ctx.Err() == nil {
		p := f.d.progress()
		report, fetch := f.next()
		if report != told {
			if err := f.check(w, report.Point); err != nil {
				return err
			}
			f.d.replicas.recordReport(f.follower, report, f.d.now())
			told = report
		}
		push = max(push, report.Point.Count+1)
		var err error
		switch {
		case fetch != nil:
			err = f.answer(w, *fetch, p.tip.Count)
		case p.head.UnixMilli > sent.UnixMilli:
			err = writeValue(w, frameHead, p.head)
			sent = p.head
		case push <= p.tip.Count:
			push, err = f.push(w, push, p.tip.Count)
		default:
			select {
			case <-ctx.Done():
			case <-p.changed:
			case <-f.wake:
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// check makes sure that a follower's position does not contradict this log. A
// follower may be ahead of a replica, never of the writer.
func (f *feed) check(w io.Writer, at Point) error {
	here, ok, err := f.d.pointAt(at.Count)
	if err != nil {
		return err
	}
	if ok && here == at || !ok && !f.d.Writable() {
		return nil
	}
	tip := f.d.Tip()
	return errors.Join(&DivergedError{Here: tip, There: at}, writeValue(w, frameRefused, tip))
}

func (f *feed) answer(w io.Writer, at Point, last uint64) error {
	if err := f.check(w, at); err != nil {
		return err
	}
	body, _, err := f.d.batch(at.Count+1, last)
	if err != nil {
		return err
	}
	return writeMessage(w, frameAnswer, body)
}

func (f *feed) push(w io.Writer, first, last uint64) (next uint64, err error) {
	body, n, err := f.d.batch(first, last)
	if err != nil {
		return first, err
	}
	return first + n, writeMessage(w, frameRecords, body)
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
