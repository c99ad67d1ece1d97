package packet

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// checkSame demands that a packet that was decoded comes back from its own
// bytes, and that Size knows them.
func checkSame(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, v Version, p Packet,
) {
	t.Helper()
	if c, ok := p.(*Connect); ok {
		v = c.Version
	}
	b := p.Append(nil, v)
	if p.Size(v) != len(b) {
		t.Fatalf("Size = %d, Append made %d bytes: %+v", p.Size(v), len(b), p)
	}
	h, n, err := ParseHeader(b)
	if err != nil || n+h.Length != len(b) {
		t.Fatalf("header %v, %d, %v for %d bytes: %+v", h, n, err, len(b), p)
	}
	q, err := Decode(v, h, b[n:])
	if err != nil {
		t.Fatalf("decode of what Append made: %v: %+v", err, p)
	}
	if diff := cmp.Diff(p, q, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("decoded again (-first +second):\n%s", diff)
	}
}

// Every way to cut a packet short is refused or is a packet, without a panic.
func TestTruncated(t *testing.T) {
	for _, tt := range golden {
		b := []byte(tt.bytes)
		h, n, err := ParseHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		for end := n; end < len(b); end++ {
			if p, err := Decode(tt.v, h, b[n:end:end]); err == nil {
				checkSame(t, tt.v, p)
			}
		}
	}
}

// drawProperties makes any valid properties of a packet of type t.
func drawProperties(t *rapid.T, of Type) (p Properties) {
	text := rapid.StringN(0, 8, -1).Filter(func(s string) bool { return !bytes.ContainsAny([]byte(s), "\x00+#") })
	for ids := allowedIn[of]; ids != 0; ids &= ids - 1 {
		id := ids.first()
		if !rapid.Bool().Draw(t, id.String()) {
			continue
		}
		p.Present |= id.set() &^ repeatable
		switch f := p.field(id).(type) {
		case *byte:
			*f = rapid.ByteRange(0, 1).Draw(t, "byte")
		case *uint16:
			*f = rapid.Uint16Min(1).Draw(t, "uint16")
		case *uint32:
			*f = rapid.Uint32Min(1).Draw(t, "uint32")
		case *string:
			*f = text.Draw(t, "string") + "x"
		case *[]byte:
			*f = rapid.SliceOf(rapid.Byte()).Draw(t, "binary")
		case *[]uint32:
			*f = rapid.SliceOfN(rapid.Uint32Range(1, MaxRemainingLength), 1, 1).Draw(t, "varint")
		case *[]UserProperty:
			pair := rapid.Custom(func(t *rapid.T) UserProperty {
				return UserProperty{text.Draw(t, "key"), text.Draw(t, "value")}
			})
			*f = rapid.SliceOfN(pair, 1, 3).Draw(t, "pairs")
		}
	}
	if p.Has(PropAuthenticationData) && !p.Has(PropAuthenticationMethod) {
		p.SetAuthenticationMethod("m")
	}
	return p
}

func TestPropertiesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		of := Type(rapid.SampledFrom([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15}).Draw(t, "type"))
		p := drawProperties(t, of)
		b := p.Append(nil)
		if p.Size() != len(b) {
			t.Fatalf("Size = %d, Append made %d bytes", p.Size(), len(b))
		}
		var got Properties
		n, err := got.Decode(of, append(slices.Clip(b), "more"...))
		if err != nil || n != len(b) {
			t.Fatalf("Decode = %d, %v, want %d", n, err, len(b))
		}
		if diff := cmp.Diff(p, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		clone := got.Clone()
		clear(b)
		clear(got.CorrelationData)
		clear(got.User)
		clear(got.SubscriptionIDs)
		clear(got.AuthenticationData)
		if diff := cmp.Diff(p, clone, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("clone after its original was overwritten (-want +got):\n%s", diff)
		}
	})
}

func TestPublishRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Publish{
			QoS:       rapid.ByteRange(0, 2).Draw(t, "QoS"),
			Retain:    rapid.Bool().Draw(t, "retain"),
			TopicName: rapid.SliceOfN(rapid.ByteRange('a', 'z'), 1, 200).Draw(t, "topic"),
			Payload:   rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"),
		}
		if p.QoS > 0 {
			p.PacketID = rapid.Uint16Min(1).Draw(t, "id")
			p.Dup = rapid.Bool().Draw(t, "dup")
		}
		checkSame(t, V311, p)
		p.Properties = drawProperties(t, TypePublish)
		checkSame(t, V5, p)
	})
}

// FuzzDecode feeds arbitrary bytes of either version and direction.
func FuzzDecode(f *testing.F) {
	for _, tt := range golden {
		f.Add(tt.v == V5, []byte(tt.bytes))
	}
	f.Add(true, raw(0x82, id+"\x00\x00\x01a"))
	f.Add(true, raw(0x30, "\x00\x01a\xff\xff\xff\x7f"))
	f.Add(false, raw(0x10, head311+"\xc6\x00\x00\x00\x00\x00\x01w\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, five bool, b []byte) {
		v := V311
		if five {
			v = V5
		}
		h, n, err := ParseHeader(b)
		if err != nil || n == 0 || n+h.Length > len(b) {
			return
		}
		p, err := Decode(v, h, b[n:n+h.Length])
		if err != nil {
			if _, ok := err.(*Error); !ok { //nolint:errorlint // wrapping it would lose the code for the client
				t.Fatalf("%T is not an Error: %v", err, err)
			}
			return
		}
		checkSame(t, v, p)
		if sent, ok := p.(interface{ CheckClient() error }); ok {
			_ = sent.CheckClient()
		}
		if sent, ok := p.(interface{ CheckServer() error }); ok {
			_ = sent.CheckServer()
		}
	})
}

// A struct that is decoded into again keeps nothing of the packet before.
func TestDecodeAgain(t *testing.T) {
	for _, tt := range golden {
		p := New(tt.packet.Type())
		for _, other := range golden {
			if other.packet.Type() != tt.packet.Type() {
				continue
			}
			for _, g := range []struct {
				v     Version
				bytes string
			}{{tt.v, tt.bytes}, {other.v, other.bytes}} {
				h, n, _ := ParseHeader([]byte(g.bytes))
				if err := p.Decode(g.v, h.Flags, []byte(g.bytes[n:])); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(other.packet, p, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s after %s (-want +got):\n%s", other.name, tt.name, diff)
			}
		}
	}
}
