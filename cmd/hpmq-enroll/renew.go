package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/node/control"
)

// renew renews the certificate of a directory if it is due, and fetches the
// revocation lists either way.
func (c *command) renew(ctx context.Context) error {
	s, err := c.open()
	if err != nil {
		return err
	}
	svid := s.SVID()
	record, err := s.Enrolment()
	if err != nil {
		return err
	}
	log := logrus.New()
	log.SetOutput(c.stderr)
	addrs := func() []string { return record.Known().API }
	r := identity.Renewer{
		Store: s, Send: identity.HTTPRenewal(s, addrs, nil), Log: log,
		CRL: func() []identity.CRLSource { return identity.HTTPCRL(s, addrs(), nil) },
	}
	if !c.force && !identity.Due(svid, time.Now()) {
		if record != nil {
			r.UpdateCRL(ctx)
		}
		_, err := fmt.Fprintf(c.stdout, "%s is valid until %s; renewal is due on %s\n", svid.ID.Short(),
			stamp(svid.NotAfter()), stamp(identity.RenewAt(svid)))
		return err
	}
	if record == nil {
		return &control.Error{Code: control.NotFound, Err: fmt.Errorf("%s has no %s, so whom to ask is not known", s.Dir(), identity.EnrolmentFile), Hint: "enrol again with a ticket"}
	}
	if err := r.Renew(ctx); err != nil {
		return fmt.Errorf("renew %s: %w", svid.ID.Short(), err)
	}
	_, err = fmt.Fprintf(c.stdout, "%s renewed, valid until %s\n", svid.ID.Short(), stamp(s.SVID().NotAfter()))
	return err
}

// open reads the directory of a command that needs an identity there.
func (c *command) open() (*identity.Store, error) {
	if c.dir == "" {
		c.dir = "."
	}
	s, err := identity.OpenStore(c.dir)
	if err != nil {
		return nil, err
	}
	if s.SVID() == nil {
		return nil, &control.Error{Code: control.NotFound, Err: errors.New(c.dir + " holds no identity"), Hint: fmt.Sprintf("hpmq-enroll %s --out DIR, the directory that was enrolled", c.name)}
	}
	return s, nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
