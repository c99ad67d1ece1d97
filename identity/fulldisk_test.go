package identity_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/internal/testca"
)

// fullDisk has no room from some write on. How a file is written that finds no room
// half way is the test of atomicfile.
type fullDisk struct {
	from int    // the first write that fails, counted from 1; 0 for none
	late bool   // the file is in place, and only what makes it outlive a power cut fails
	n    int    // writes so far
	last string // the file of the last one
}

// failAt has the disk full from the nth write from now on; 0 makes room.
func (d *fullDisk) failAt(n int) { d.n, d.from = 0, n }

func (d *fullDisk) write(path string, data []byte, perm fs.FileMode) error {
	d.n++
	d.last = filepath.Base(path)
	full := d.from > 0 && d.n >= d.from
	if !full || d.late {
		if err := atomicfile.Write(path, data, perm); err != nil {
			return err
		}
	}
	if full {
		return &fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
	}
	return nil
}

// renewalWrites are the files that a renewal writes, in order.
var renewalWrites = []string{"pending.json", identity.EnrolmentFile, identity.RootsFile, identity.CertFile, identity.KeyFile}

// TestRenewOnFullDisk has the disk full from each write of a renewal on. The old
// identity goes on, also after a restart, nothing is half written, and with room the
// renewal is finished under the id that it began with: another one would be a clone.
func TestRenewOnFullDisk(t *testing.T) {
	for i, name := range renewalWrites {
		for _, late := range []bool{false, true} {
			for _, restart := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, in place %v, restart %v", name, late, restart), func(t *testing.T) {
					renewOnFullDisk(t, i+1, &fullDisk{late: late}, restart)
				})
			}
		}
	}
}

func renewOnFullDisk(t *testing.T, n int, disk *fullDisk, restart bool) {
	t.Helper()
	a := newAuthority(t)
	s := a.enrolledStore()
	was := s.SVID()
	writeEnrolment(t, s)
	s.OnDisk(disk.write)
	told := 0
	r := identity.Renewer{Store: s, Send: a.send, OnRenew: func(*identity.SVID) { told++ }}

	disk.failAt(n)
	tries := 2
	if disk.late && n == len(renewalWrites) {
		tries = 1 // all is in place
	}
	for try := range tries {
		if err := r.Renew(t.Context()); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("try %d: %v", try, err)
		}
		if try == 0 && disk.last != renewalWrites[n-1] {
			t.Fatalf("write %d was of %s", n, disk.last)
		}
		disk.failAt(1) // and no room has been made
		if !s.SVID().Leaf().Equal(was.Leaf()) || told > 0 {
			t.Fatal("the old identity is gone")
		}
		wholeDirectory(t, s.Dir())
	}
	if restart {
		var err error
		if s, err = identity.OpenStoreOn(s.Dir(), disk.write); err != nil {
			t.Fatalf("started on a full disk: %v", err)
		}
		if _, err := identity.NewSVID(s.SVID().Chain, s.SVID().Key); err != nil {
			t.Error(err)
		}
		r.Store = s
	}

	disk.failAt(0)
	// Restarted, the store has the last step's certificate already, which is not due.
	if gen, _ := identity.Generation(s.SVID().Leaf()); gen == 1 {
		if err := r.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if told != 1 {
			t.Errorf("told %d times of the new identity", told)
		}
	} else if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	again := openStore(t, s.Dir())
	for _, got := range []*identity.SVID{s.SVID(), again.SVID()} {
		if gen, _ := identity.Generation(got.Leaf()); gen != 2 || sameKey(got, was) {
			t.Errorf("generation %d with the old key: %v", gen, sameKey(got, was))
		}
	}
	if ids := a.requestIDs(); ids != 1 {
		t.Errorf("%d renewal ids, want one", ids)
	}
	if e, err := s.Enrolment(); err != nil || !slices.Equal(e.Mesh, []string{"127.0.0.1:7844"}) {
		t.Errorf("enrolment %+v, %v", e, err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), "pending.json")); !errors.Is(err, fs.ErrNotExist) && !disk.late {
		t.Errorf("the key is kept twice: %v", err)
	}
}

func writeEnrolment(t *testing.T, s *identity.Store) {
	t.Helper()
	text, err := json.Marshal(identity.Enrolment{ID: s.SVID().ID, Site: "lyon", API: []string{"lyon:8883"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), identity.EnrolmentFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// wholeDirectory checks that dir holds whole files of an identity and no others.
func wholeDirectory(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(renewalWrites, e.Name()) && e.Name() != ".lock" {
			t.Errorf("%s was left", e.Name())
		}
	}
	full := func(path string, _ []byte, _ fs.FileMode) error {
		return &fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
	}
	if s, err := identity.OpenStoreOn(dir, full); err != nil || s.SVID() == nil {
		t.Errorf("the directory holds no identity: %v", err)
	}
	for _, name := range []string{"pending.json", identity.EnrolmentFile} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil && !json.Valid(text) {
			t.Errorf("%s is half written:\n%s", name, text)
		}
	}
}

// TestSaveOnFullDisk has two changes of key fail, each at any of its writes: what is
// in the directory afterwards is one of the identities, whole.
func TestSaveOnFullDisk(t *testing.T) {
	ca := testca.New(t, "lab.test")
	id := ca.ID(t, identity.Node, "paris")
	for first := range 4 {
		for second := range 4 {
			t.Run(fmt.Sprint(first+1, second+1), func(t *testing.T) {
				disk, dir := &fullDisk{}, t.TempDir()
				s := openStore(t, dir)
				if err := s.Save(ca.SVID(t, id), ca.Bundle()); err != nil {
					t.Fatal(err)
				}
				s.OnDisk(disk.write)
				for _, n := range []int{first, second} {
					disk.failAt(n + 1)
					if err := s.Save(ca.SVID(t, id), ca.Bundle()); !errors.Is(err, syscall.ENOSPC) {
						t.Fatalf("full at write %d: %v", n+1, err)
					}
					wholeDirectory(t, dir)
				}
				disk.failAt(0)
				last := ca.SVID(t, id)
				if err := s.Save(last, ca.Bundle()); err != nil {
					t.Fatal(err)
				}
				if got := openStore(t, dir).SVID(); !got.Leaf().Equal(last.Leaf()) {
					t.Error("with room, the new identity is not there")
				}
			})
		}
	}
}

// A renewal that another process has made is told of too.
func TestRenewedByAnother(t *testing.T) {
	a := newAuthority(t)
	s := a.enrolledStore()
	if err := (&identity.Renewer{Store: openStore(t, s.Dir()), Send: a.send}).Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	var told *identity.SVID
	r := identity.Renewer{Store: s, OnRenew: func(svid *identity.SVID) { told = svid }, Send: func(context.Context, *identity.RenewRequest) (*identity.EnrolResponse, error) {
		t.Error("renewed again")
		return nil, identity.ErrUnreachable
	}}
	if err := r.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if told != s.SVID() {
		t.Errorf("told of %v", told)
	}
}
