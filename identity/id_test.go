package identity_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/hpmq/hpmq/identity"
)

func TestParseID(t *testing.T) {
	for _, tt := range []struct{ name, uri, want string }{
		{"device", "spiffe://lab.test/device/pump-7", "device:pump-7"},
		{"user with at sign", "spiffe://lab.test/user/tech@kuka.example", "user:tech@kuka.example"},
		{"longest name", "spiffe://lab.test/device/" + strings.Repeat("a", 63), "device:" + strings.Repeat("a", 63)},
		{"name too long", "spiffe://lab.test/device/" + strings.Repeat("a", 64), ""},
		{"topic separator", "spiffe://lab.test/device/a/b", ""},
		{"topic wildcard", "spiffe://lab.test/device/+", ""},
		{"upper case", "spiffe://lab.test/device/Pump", ""},
		{"unknown kind", "spiffe://lab.test/gateway/a", ""},
		{"no name", "spiffe://lab.test/device/", ""},
		{"no trust domain", "spiffe:///device/a", ""},
		{"port in trust domain", "spiffe://lab.test:1/device/a", ""},
		{"other scheme", "https://lab.test/device/a", ""},
		{"query", "spiffe://lab.test/device/a?b", ""},
		{"empty", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := identity.ParseID(tt.uri)
			if (err == nil) != (tt.want != "") {
				t.Fatalf("ParseID(%q) = %v, %v", tt.uri, id, err)
			}
			if err == nil && (id.Short() != tt.want || id.String() != tt.uri || id.URL().String() != tt.uri) {
				t.Errorf("ParseID(%q) = %q, prints %q", tt.uri, id.Short(), id)
			}
		})
	}
}

func TestParseShort(t *testing.T) {
	for in, want := range map[string]string{
		"pump-7":                        "spiffe://lab.test/device/pump-7",
		"user:ann":                      "spiffe://lab.test/user/ann",
		"node/paris":                    "spiffe://lab.test/node/paris",
		"spiffe://other.test/device/p7": "spiffe://other.test/device/p7",
		"user:":                         "",
		"":                              "",
	} {
		id, err := identity.ParseShort("lab.test", in)
		if got := id.String(); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("ParseShort(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestIDText(t *testing.T) {
	type record struct{ ID identity.ID }
	for _, text := range []string{`{"ID":"spiffe://lab.test/device/a"}`, `{"ID":""}`} {
		var r record
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(r); err != nil || string(got) != text {
			t.Errorf("%s became %s, %v", text, got, err)
		}
	}
	if err := json.Unmarshal([]byte(`{"ID":"pump"}`), new(record)); err == nil {
		t.Error("a short form was taken for an ID")
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"spiffe://lab.test/device/a", "spiffe://a/user/b@c", "spiffe://", "spiffe://x/device/%2f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := identity.ParseID(s)
		if err != nil {
			return
		}
		if id.String() != s || strings.ContainsAny(id.Name, "/+#$") {
			t.Errorf("%q was read as %q", s, id)
		}
	})
}
