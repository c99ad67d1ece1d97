package socket

import (
	"errors"
	"io"
	"testing"
)

// handed returns a descriptor that a poll watches, and its peer.
func handed(t *testing.T) (*Poll, *Conn, *Descriptor, io.ReadWriteCloser) {
	t.Helper()
	near, far := pair(t)
	c := Quick(near).(*Conn)
	d, err := c.HandOver()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Release)
	p, err := NewPoll(8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := p.Add(d); err != nil {
		t.Fatal(err)
	}
	return p, c, d, far
}

// until waits for an event of d that is as wanted.
func until(t *testing.T, p *Poll, d *Descriptor, wanted func(Event) bool) {
	t.Helper()
	for {
		events, on := p.Wait(nil, true)
		if !on {
			t.Fatal("woken")
		}
		for _, e := range events {
			if e.FD != d.FD() {
				t.Fatalf("event of descriptor %d", e.FD)
			}
			if wanted(e) {
				return
			}
		}
	}
}

func TestPollTellsOfBytesAndTheEnd(t *testing.T) {
	p, c, d, far := handed(t)
	buf := make([]byte, 10)
	if n, more, err := d.Fill(nil, buf, nil); n != 0 || more || err != nil {
		t.Errorf("nothing was sent: %d, %v, %v", n, more, err)
	}
	if _, err := far.Write([]byte("hello, poll")); err != nil {
		t.Fatal(err)
	}
	until(t, p, d, Event.Readable)
	n, more, err := d.Fill(nil, buf, nil)
	if string(buf[:n]) != "hello, pol" || !more || err != nil {
		t.Errorf("read %q, %v, %v", buf[:n], more, err)
	}
	if n, more, err := d.Fill(nil, buf, nil); n != 1 || more || err != nil {
		t.Errorf("then %d, %v, %v", n, more, err)
	}
	if done, err := NewSink(c).Try([]byte("bye")); !done || err != nil {
		t.Errorf("written: %v, %v", done, err)
	}
	if n, err := io.ReadFull(far, buf[:3]); string(buf[:n]) != "bye" {
		t.Errorf("the peer read %q, %v", buf[:n], err)
	}
	far.Close()
	until(t, p, d, Event.Ended)
	if d.ExpectEnd(); !d.Ending() {
		t.Error("no end is expected")
	}
	if _, _, err := d.Fill(nil, buf, nil); !errors.Is(err, io.EOF) {
		t.Errorf("at the end %v", err)
	}
}

func TestRearmTellsAgain(t *testing.T) {
	p, _, d, far := handed(t)
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	until(t, p, d, Event.Readable)
	if events, on := p.Wait(nil, false); len(events) > 0 || !on {
		t.Errorf("%d events though nothing changed", len(events))
	}
	if err := p.Rearm(d); err != nil {
		t.Fatal(err)
	}
	until(t, p, d, Event.Readable)
	p.Wake()
	for on := true; on; {
		_, on = p.Wait(nil, true)
	}
}

func TestPollRefusesTwice(t *testing.T) {
	p, _, d, _ := handed(t)
	if err := p.Add(d); err == nil {
		t.Error("added twice")
	}
}

func TestHandOverOfAClosedConnection(t *testing.T) {
	near, _ := pair(t)
	c := Quick(near).(*Conn)
	c.Close()
	if d, err := c.HandOver(); err == nil {
		d.Release()
		t.Error("handed over")
	}
}
