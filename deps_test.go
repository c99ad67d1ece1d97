package hpmq

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hpmq/hpmq/"

// everything stands for all packages but the programs in cmd.
var everything = []string{"*"}

// layers says which packages of this module a package may import. Every
// package outside cmd, examples, integration and internal must be listed. It
// is a statement of policy: change it in review, not to make a build pass.
var layers = map[string][]string{
	"identity":             {},
	"identity/directory":   {"identity"},
	"identity/authority":   {"identity", "identity/directory"},
	"identity/password":    {},
	"policy":               {"identity", "mqtt/topic", "policy/slice"},
	"policy/slice":         {"identity", "identity/directory"},
	"mqtt/packet":          {},
	"mqtt/topic":           {},
	"mqtt/store":           {"mqtt/packet", "mqtt/topic"},
	"mqtt/store/durable":   {"mqtt/packet", "mqtt/store", "mqtt/store/durable/disk", "mqtt/topic"},
	"mqtt/store/storetest": {"mqtt/packet", "mqtt/store"},
	"mqtt/proxyproto":      {},
	"mqtt/bench":           {"mqtt/packet"},
	"mqtt/quic":            {},
	"mqtt/websocket":       {},
	"mqtt/socket":          {},
	"mqtt":                 {"identity", "mqtt/packet", "mqtt/socket", "mqtt/topic", "mqtt/store"},
	"mqtt/link":            {"identity", "mqtt/packet", "mqtt/topic", "mqtt/store"},
	"mqtt/history":         {"mqtt/packet", "mqtt/topic"},
	"mqtt/bridge":          {"mqtt/packet", "mqtt/topic"},
	"funcs/wasm":           {},
	"funcs":                {"funcs/wasm", "mqtt/topic"},
	"funcs/artifact":       {"identity"},
	"overlay":              {"identity"},
	"overlay/gossip":       {"identity", "overlay"},
	"overlay/wg":           {},
	"overlay/access":       {"identity", "overlay"},
	"node":                 everything,
	"node/control":         {"identity"},
	"node/trust":           {"identity", "identity/directory", "mqtt/store", "policy"},
	"console":              {},

	"mqtt/store/durable/disk": {}, // files, and nothing of messages
}

// homes says which packages may import a third-party module.
var homes = map[string][]string{
	"github.com/smallstep/certificates": {"identity/authority"},
	"github.com/tetratelabs/wazero":     {"funcs/wasm"},
	"github.com/quic-go/quic-go":        {"overlay", "overlay/gossip", "mqtt/quic"},
	"github.com/hashicorp/serf":         {"overlay/gossip"},
	"github.com/hashicorp/memberlist":   {"overlay/gossip"},
	"golang.zx2c4.com/wireguard":        {"overlay/wg"},
	"github.com/cockroachdb/pebble":     {"mqtt/store/durable", "mqtt/store/durable/disk", "mqtt/history"},
	"github.com/hashicorp/hcl":          {"policy"},
	"github.com/fsnotify/fsnotify":      {"policy"},
	"github.com/fxamacker/cbor":         {"identity", "identity/directory", "identity/authority", "policy/slice"},
	"github.com/eclipse/paho.golang":    {"mqtt/bridge", "cmd/hpmq", "cmd/hpmq-lite"},
	"github.com/spf13/cobra":            {"cmd/hpmq"},
	"github.com/prometheus":             {"node"},
}

// unreachable says what a program must not link, directly or not.
var unreachable = map[string][]string{
	"cmd/hpmq-lite": {
		"github.com/hashicorp/serf", "github.com/hashicorp/memberlist", "github.com/smallstep/certificates",
		"github.com/spf13/cobra", "github.com/hashicorp/hcl", "github.com/cockroachdb/pebble",
	},
	"cmd/hpmq-enroll": {
		"github.com/hashicorp/serf", "github.com/hashicorp/memberlist", "github.com/smallstep/certificates",
		"github.com/spf13/cobra", "github.com/hashicorp/hcl", "github.com/cockroachdb/pebble",
		"github.com/quic-go/quic-go", "github.com/tetratelabs/wazero", "golang.zx2c4.com/wireguard",
	},
	"mqtt":  {"github.com/cockroachdb/pebble"},
	"funcs": {"github.com/cockroachdb/pebble"},
}

// wrongEdges returns one sentence for each import of pkg that the tables forbid.
func wrongEdges(pkg string, imports []string) []string {
	var wrong []string
	allowed, layered := layers[pkg]
	free := strings.HasPrefix(pkg, "cmd/") || strings.HasPrefix(pkg, "examples/") ||
		strings.HasPrefix(pkg, "integration") || strings.HasPrefix(pkg, "internal/")
	if !layered && !free {
		wrong = append(wrong, pkg+" is not in the table")
	}
	for _, imp := range imports {
		dep, ours := strings.CutPrefix(imp, module)
		free := slices.Equal(allowed, everything) && !strings.HasPrefix(dep, "cmd/") || strings.HasPrefix(dep, "internal/")
		if ours && layered && !free && !slices.Contains(allowed, dep) {
			wrong = append(wrong, pkg+" imports "+dep)
		}
		for mod, home := range homes {
			if within(imp, mod) && !slices.Contains(home, pkg) {
				wrong = append(wrong, pkg+" imports "+imp)
			}
		}
	}
	return wrong
}

// within reports whether the import path imp lies in the module or tree mod.
func within(imp, mod string) bool { return imp == mod || strings.HasPrefix(imp, mod+"/") }

func TestImportDirection(t *testing.T) {
	if len(wrongEdges("mqtt", []string{module + "overlay"})) == 0 ||
		len(wrongEdges("mqtt", []string{"github.com/hashicorp/serf/serf"})) == 0 {
		t.Fatal("the check does not see a forbidden edge")
	}
	for line := range strings.Lines(goList(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")) {
		f := strings.Fields(line)
		pkg, ours := strings.CutPrefix(f[0], module)
		if !ours {
			continue // the root package
		}
		for _, w := range wrongEdges(pkg, f[1:]) {
			t.Error(w)
		}
	}
}

func TestUnreachable(t *testing.T) {
	for pkg, mods := range unreachable {
		for dep := range strings.Lines(goList(t, "-deps", "./"+pkg)) {
			for _, m := range mods {
				if d := strings.TrimSpace(dep); within(d, m) {
					t.Errorf("%s links %s", pkg, d)
				}
			}
		}
	}
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}
