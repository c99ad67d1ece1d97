package directory

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

// TestRevokedLeaves issues, relabels, revokes and replaces at random for months and
// compares with all certificates that there were, at the writer, after a restart
// and at a replica.
func TestRevokedLeaves(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel() // it waits for the disk
			s := newIssuing(t, rand.New(rand.NewPCG(seed, 1)))
			for range 400 {
				s.step(t)
				if s.rand.IntN(20) == 0 {
					s.compare(t, "writer", s.dir)
				}
			}
			replica := newReplica(t)
			for seq := uint64(1); seq <= s.dir.Tip().Count; seq += 50 {
				body, _, err := s.dir.batch(seq, min(seq+49, s.dir.Tip().Count))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := replica.acceptRecords(body); err != nil {
					t.Fatal(err)
				}
			}
			s.compare(t, "replica", replica)
			if err := s.dir.Close(); err != nil {
				t.Fatal(err)
			}
			s.compare(t, "reopened", openDir(t, s.path, Options{Signer: rootKey}))
		})
	}
}

// issuing is a writer whose identities come and go, and every certificate of it.
type issuing struct {
	ca   *testca.CA
	dir  *Directory
	path string
	rand *rand.Rand
	now  time.Time
	all  []leafOf
}

type leafOf struct {
	id         identity.ID
	generation uint64
	cert       *x509.Certificate
}

func newIssuing(t *testing.T, r *rand.Rand) *issuing {
	s := &issuing{ca: testca.New(t, domain), path: filepath.Join(t.TempDir(), "log"), rand: r, now: time.Now().Truncate(time.Second)}
	s.dir = openDir(t, s.path, Options{Signer: rootKey})
	return s
}

func (s *issuing) step(t *testing.T) {
	s.now = s.now.Add(time.Duration(s.rand.IntN(48)) * time.Hour)
	id := device(fmt.Sprint("pump-", s.rand.IntN(4)))
	p, known := s.dir.Identity(id)
	switch p.ID = id; {
	case !known || s.rand.IntN(3) == 0:
		p.Generation++
		p.State, p.SPKI = Active, [32]byte{1, byte(s.rand.Uint32()), byte(s.rand.Uint32()), byte(s.rand.Uint32()), byte(s.rand.Uint32())}
		end := s.now.Add(time.Duration(1+s.rand.IntN(30*24)) * time.Hour)
		cert := s.ca.SVID(t, id, testca.Issued(t, s.now), func(c *x509.Certificate) { c.NotAfter = end }).Leaf()
		p.Leaf, p.NotAfter = cert.Raw, cert.NotAfter
		s.all = append(s.all, leafOf{id, p.Generation, cert})
	case s.rand.IntN(3) == 0:
		mustPut(t, s.dir, Revocation{ID: id, Generation: p.Generation, Time: s.now})
		if p.State = Revoked; s.rand.IntN(2) == 0 {
			p.State, p.SPKI, p.Leaf = Replaced, [32]byte{}, nil
		}
	default:
		p.Labels = map[string]string{"n": fmt.Sprint(s.rand.Uint32())}
	}
	mustPut(t, s.dir, p)
}

func (s *issuing) compare(t *testing.T, what string, d *Directory) {
	t.Helper()
	at := s.now.Add(-identity.Backdate)
	var want []string
	for _, l := range s.all {
		if d.Revoked(l.id, l.generation) && !l.cert.NotAfter.Before(at) {
			want = append(want, l.cert.SerialNumber.String())
		}
	}
	leaves, upTo, err := d.RevokedLeaves(at)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range leaves {
		got = append(got, l.Leaf.SerialNumber.String())
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" || upTo != d.LastRevocation() {
		t.Errorf("%s, up to %d: %s", what, upTo, diff)
	}
	for id, all := range d.index.issued {
		live := 0
		for _, l := range s.all {
			if l.id == id && !l.cert.NotAfter.Before(at) {
				live++
			}
		}
		if len(all) > manyIssued+live+1 {
			t.Errorf("%s: %d certificates of %s noted, %d have not ended", what, len(all), id.Short(), live)
		}
	}
}

// TestLastRevocation moves with revocations and nothing else.
func TestLastRevocation(t *testing.T) {
	w := newWriter(t)
	mustPut(t, w, someIdentity("pump-7", 1))
	if got := w.LastRevocation(); got != 0 {
		t.Errorf("record %d without a revocation", got)
	}
	want := mustPut(t, w, Revocation{ID: device("pump-7"), Generation: 1})[0].Seq
	mustPut(t, w, someIdentity("pump-8", 1))
	if got := w.LastRevocation(); got != want {
		t.Errorf("record %d, want %d", got, want)
	}
}

// TestRevokedLeafIsDamaged: a certificate that cannot be read is no reason to leave
// it out.
func TestRevokedLeafIsDamaged(t *testing.T) {
	w := newWriter(t)
	p := someIdentity("pump-7", 1)
	p.Leaf, p.NotAfter = []byte("torn"), time.Now().Add(time.Hour)
	mustPut(t, w, p, Revocation{ID: p.ID, Generation: 1})
	if leaves, _, err := w.RevokedLeaves(time.Now()); err == nil {
		t.Errorf("%d certificates", len(leaves))
	}
}
