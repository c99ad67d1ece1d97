package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/node/control"
)

// enrol trades the ticket for a certificate and prints how to use it.
func (c *command) enrol(ctx context.Context) error {
	t, err := c.readTicket()
	if err != nil {
		return err
	}
	if t.Kind == identity.Node {
		return &control.Error{Code: control.Invalid, Err: errors.New("this ticket is for a node, not for a device"), Hint: "hpmq up --join TICKET --site " + t.Site}
	}
	if c.dir == "" {
		c.dir = t.Name
	}
	s, err := identity.OpenStore(c.dir)
	if err != nil {
		return err
	}
	progress := func(line string) { fmt.Fprintln(c.stderr, line) }
	if _, err := identity.Enrol(ctx, t, s, identity.EnrolOptions{Progress: progress}); err != nil {
		return err
	}
	sum, err := summarize(s)
	if err != nil {
		return err
	}
	if c.json {
		return sum.printJSON(c.stdout)
	}
	_, err = fmt.Fprintln(c.stdout, sum.tryLine())
	return err
}

// readTicket parses the ticket of the command line or of standard input.
func (c *command) readTicket() (*identity.Ticket, error) {
	if c.ticket != "-" {
		return identity.ParseTicket(c.ticket)
	}
	text, err := io.ReadAll(io.LimitReader(c.stdin, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("read ticket: %w", err)
	}
	return identity.ParseTicket(string(text))
}
