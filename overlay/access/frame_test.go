package access

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
)

func frameOf(body string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...)
}

func TestFrames(t *testing.T) {
	target := identity.ID{TrustDomain: "lab.test", Kind: identity.Device, Name: "pump-7"}
	for _, tt := range []struct{ in, out message }{
		{&header{Target: target, Hops: 1}, &header{}},
		{&request{Network: "tcp", Port: 8080, Host: "localhost"}, &request{}},
		{&answer{Code: codeDenied, Rule: `deny "x" main.hcl:3`, Reason: "denied"}, &answer{}},
		{&receipt{Refused: "not newer"}, &receipt{}},
	} {
		var b bytes.Buffer
		if err := writeFrame(&b, tt.in); err != nil {
			t.Fatal(err)
		}
		b.WriteString("what follows")
		if err := readFrame(&b, tt.out); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.in, tt.out); diff != "" {
			t.Error(diff)
		}
		if got := b.String(); got != "what follows" {
			t.Errorf("left to read: %q", got)
		}
	}
}

func TestBadFrames(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		to   message
	}{
		{"empty", nil, &header{}},
		{"cut length", []byte{0}, &header{}},
		{"cut body", []byte{0, 9, '{'}, &header{}},
		{"too long", []byte{0xff, 0xff}, &header{}},
		{"no JSON", frameOf("hello"), &header{}},
		{"no target", frameOf(`{"hops":1}`), &header{}},
		{"target of another form", frameOf(`{"target":"http://x"}`), &header{}},
		{"too many hops", frameOf(`{"target":"spiffe://a/device/b","hops":2}`), &header{}},
		{"negative hops", frameOf(`{"target":"spiffe://a/device/b","hops":-1}`), &header{}},
		{"no network", frameOf(`{"port":1}`), &request{}},
		{"network for a terminal", frameOf(`{"network":"\u001b[2J","port":1}`), &request{}},
		{"host for a terminal", frameOf(`{"network":"tcp","port":1,"host":"a\nb"}`), &request{}},
		{"port out of range", frameOf(`{"network":"tcp","port":65536}`), &request{}},
		{"no code", frameOf(`{}`), &answer{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := readFrame(bytes.NewReader(tt.in), tt.to); err == nil {
				t.Errorf("read as %+v", tt.to)
			}
		})
	}
}

// However long a rule or reason is and whatever is in it, an answer fits.
func TestClip(t *testing.T) {
	for _, text := range []string{strings.Repeat("\x01", 5000), strings.Repeat("é", 5000), "\xff\xfe", ""} {
		a := answer{Code: codeDenied, Rule: clip(text), Reason: clip(text)}
		if err := writeFrame(io.Discard, &a); err != nil {
			t.Errorf("%.10q…: %v", text, err)
		}
	}
	if got := printable("a\x1b[2J\tb\u202e"); strings.ContainsAny(got, "\x1b\t\u202e") {
		t.Errorf("printable: %q", got)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(frameOf(`{"target":"spiffe://lab.test/device/pump-7","hops":1}`))
	f.Add(frameOf(`{"network":"tcp","port":8080,"host":"localhost"}`))
	f.Add(frameOf(`{"code":"denied","rule":"deny \"x\" main.hcl:3","reason":"denied"}`))
	f.Add([]byte{0xff, 0xff, '{'})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, pair := range [][2]message{
			{&header{}, &header{}}, {&request{}, &request{}}, {&answer{}, &answer{}}, {&receipt{}, &receipt{}},
		} {
			if err := readFrame(bytes.NewReader(b), pair[0]); err != nil {
				continue
			}
			var again bytes.Buffer
			if err := writeFrame(&again, pair[0]); err != nil {
				continue // grew beyond a frame by escaping
			}
			if err := readFrame(&again, pair[1]); err != nil {
				t.Fatalf("%+v does not read back: %v", pair[0], err)
			}
			if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

func FuzzSlice(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 'a', 'b', 'c'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0, 0x40, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readSlice(bytes.NewReader(b))
		if err != nil {
			return
		}
		if want := b[4 : 4+len(got)]; !bytes.Equal(got, want) || int(binary.BigEndian.Uint32(b)) != len(got) {
			t.Fatalf("got %d bytes of %d", len(got), len(b))
		}
	})
}
