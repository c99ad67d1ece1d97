package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hpmq/hpmq/identity"
)

var (
	ticketKey    = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	ticketPub    = ticketKey.Public().(ed25519.PublicKey)
	ticketExpiry = time.Date(2026, 11, 22, 18, 2, 0, 0, time.UTC)
)

func newTicket(edit ...func(*identity.Ticket)) *identity.Ticket {
	t := &identity.Ticket{
		ID:          "01JD9Z3NDEKTSV4RRFFQ69G5FA",
		Kind:        identity.Device,
		Name:        "pump-7",
		TrustDomain: "lab.test",
		Addrs:       []string{"paris.example:8883", "[2001:db8::1]:8883"},
		RootHash:    [32]byte{1, 2, 3},
		Signer:      ticketPub,
		Labels:      map[string]string{"role": "sensor", "line": "3 north"},
		Site:        "paris",
		NotAfter:    ticketExpiry,
		Uses:        1,
	}
	for _, f := range edit {
		f(t)
	}
	return t
}

func signed(t testing.TB, ticket *identity.Ticket) *identity.Ticket {
	t.Helper()
	if err := ticket.Sign(ticketKey); err != nil {
		t.Fatal(err)
	}
	return ticket
}

func TestTicketRoundTrip(t *testing.T) {
	want := signed(t, newTicket())
	word := want.String()
	t.Logf("%d characters: %s", len(word), word)
	for name, paste := range map[string]string{
		"as printed":     word,
		"with newline":   word + "\n",
		"wrapped":        "  " + word[:40] + "\r\n  " + word[40:90] + "\n" + word[90:] + "\t",
		"no-break space": word[:10] + "\u00a0" + word[10:],
	} {
		got, err := identity.ParseTicket(paste)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if err := got.Verify(ticketPub); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTicketSignature(t *testing.T) {
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	ticket := signed(t, newTicket())
	if err := ticket.Verify(other); err == nil {
		t.Error("another signer's key verified it")
	}
	if err := ticket.Verify(nil); err == nil {
		t.Error("no key verified it")
	}
	for name, change := range map[string]func(*identity.Ticket){
		"name":   func(t *identity.Ticket) { t.Name = "valve" },
		"labels": func(t *identity.Ticket) { t.Labels["role"] = "admin" },
		"uses":   func(t *identity.Ticket) { t.Uses = 1000 },
		"expiry": func(t *identity.Ticket) { t.NotAfter = t.NotAfter.Add(time.Hour) },
		"root":   func(t *identity.Ticket) { t.RootHash[0]++ },
	} {
		forged := signed(t, newTicket())
		change(forged)
		got, err := identity.ParseTicket(forged.String())
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if err := got.Verify(ticketPub); err == nil {
			t.Errorf("%s: changed without notice", name)
		}
	}
}

func TestTicketErrors(t *testing.T) {
	word := signed(t, newTicket()).String()
	flipped := []byte(word)
	flipped[60] ^= 1
	for _, tt := range []struct {
		name, in string
		want     error
	}{
		{"empty", "", identity.ErrNotTicket},
		{"something else", "glpat-0123", identity.ErrNotTicket},
		{"a later format", "hpmq2." + word[6:], identity.ErrNotTicket},
		{"far too long", "hpmq1." + strings.Repeat("A", 10_000), identity.ErrNotTicket},
		{"too long", "hpmq1." + strings.Repeat("A", 4096), identity.ErrNotTicket},
		{"prefix only", "hpmq1.", identity.ErrTicketDamaged},
		{"cut", word[:len(word)-9], identity.ErrTicketDamaged},
		{"one character wrong", string(flipped), identity.ErrTicketDamaged},
		{"something added", word + "AAAA", identity.ErrTicketDamaged},
		{"other alphabet", word[:len(word)-1] + "+", identity.ErrTicketDamaged},
		{"malformed name", newTicket(func(t *identity.Ticket) { t.Name = "a/b" }).String(), identity.ErrTicketDamaged},
		{"malformed address", newTicket(func(t *identity.Ticket) { t.Addrs = []string{"paris"} }).String(), identity.ErrTicketDamaged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := identity.ParseTicket(tt.in); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestTicketRefusesToSign(t *testing.T) {
	for name, edit := range map[string]func(*identity.Ticket){
		"no id":        func(t *identity.Ticket) { t.ID = "" },
		"no address":   func(t *identity.Ticket) { t.Addrs = nil },
		"no uses":      func(t *identity.Ticket) { t.Uses = 0 },
		"no signer":    func(t *identity.Ticket) { t.Signer = nil },
		"bad site":     func(t *identity.Ticket) { t.Site = "a/b" },
		"bad label":    func(t *identity.Ticket) { t.Labels = map[string]string{"A B": "c"} },
		"binary label": func(t *identity.Ticket) { t.Labels = map[string]string{"a": "\xff"} },
		"over 4 KiB": func(t *identity.Ticket) {
			for k := range strings.SplitSeq("abcdefghijklmnop", "") {
				t.Labels[k] = strings.Repeat("x", 255)
			}
		},
	} {
		if err := newTicket(edit).Sign(ticketKey); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestTicketCheckTime(t *testing.T) {
	for _, tt := range []struct {
		name  string
		edit  func(*identity.Ticket)
		after time.Duration
		want  string
	}{
		{"in time", func(*identity.Ticket) {}, 0, ""},
		{"device", func(t *identity.Ticket) { t.Labels = nil }, 12 * time.Minute, "ticket expired 12m ago; ask for: hpmq enroll ticket --name pump-7"},
		{"device with a role", func(*identity.Ticket) {}, 90 * time.Minute, "ticket expired 1h30m ago; ask for: hpmq enroll ticket --name pump-7 --role sensor"},
		{"user", func(t *identity.Ticket) { t.Kind, t.Name = identity.User, "ann" }, 50 * time.Second, "ticket expired 50s ago; ask for: hpmq user add ann"},
		{"node", func(t *identity.Ticket) { t.Kind = identity.Node }, 72 * time.Hour, "ticket expired 3d ago; ask for: hpmq site invite paris"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := newTicket(tt.edit).CheckTime(ticketExpiry.Add(tt.after))
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || err.Error() != tt.want || !errors.Is(err, identity.ErrTicketExpired) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestTicketProperty(t *testing.T) {
	name := rapid.StringMatching(`[a-z0-9][a-z0-9._@-]{0,62}`)
	rapid.Check(t, func(rt *rapid.T) {
		want := newTicket(func(t *identity.Ticket) {
			t.ID = rapid.StringMatching(`[0-9A-HJKMNP-TV-Z]{26}`).Draw(rt, "id")
			t.Kind = rapid.SampledFrom([]identity.Kind{identity.Device, identity.Node, identity.User}).Draw(rt, "kind")
			t.Name = name.Draw(rt, "name")
			t.Site = rapid.OneOf(rapid.Just(""), name).Draw(rt, "site")
			t.Addrs = rapid.SliceOfN(rapid.StringMatching(`[a-z0-9.]{1,30}:[0-9]{1,5}`), 1, 16).Draw(rt, "addrs")
			t.Labels = rapid.MapOfN(rapid.StringMatching(`[a-z0-9_][a-z0-9_.-]{0,10}`), rapid.StringMatching(`\PC{0,9}`), 1, 32).Draw(rt, "labels")
			t.NotAfter = time.Unix(rapid.Int64Range(0, 1<<33).Draw(rt, "not after"), 0).UTC()
			t.Uses = rapid.IntRange(1, 1e6).Draw(rt, "uses")
		})
		if err := want.Sign(ticketKey); err != nil {
			rt.Fatal(err)
		}
		got, err := identity.ParseTicket(want.String())
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Error(diff)
		}
	})
}

func FuzzParseTicket(f *testing.F) {
	f.Add(signed(f, newTicket()).String())
	f.Add(newTicket(func(t *identity.Ticket) { t.Labels, t.Site = nil, "" }).String())
	f.Add("hpmq1.oA")
	f.Add("hpmq1.")
	f.Fuzz(func(t *testing.T, s string) {
		ticket, err := identity.ParseTicket(s)
		if err != nil {
			return
		}
		again, err := identity.ParseTicket(ticket.String())
		if err != nil {
			t.Fatalf("its own spelling is refused: %v", err)
		}
		if diff := cmp.Diff(ticket, again); diff != "" {
			t.Error(diff)
		}
	})
}
