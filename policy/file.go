package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Bounds on the files.
const (
	maxBytes     = 32 << 20 // of all files together; about 100,000 grants
	maxNesting   = 64       // brackets, braces and interpolations within each other
	maxOperators = 1000     // in one expression
)

// ReadDir returns the *.hcl files of dir by base name, which is how rules name
// their place. A directory without any is an error: it is more often a mistake,
// or a checkout in progress, than a wish to deny everything.
func ReadDir(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	files := map[string][]byte{}
	left := int64(maxBytes)
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".hcl" || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path) // through symbolic links, as kubelet mounts files
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read policy: %w", err)
		}
		if left -= info.Size(); left < 0 {
			return nil, fmt.Errorf("read policy: %s holds more than %d MiB", dir, maxBytes>>20)
		}
		if files[e.Name()], err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read policy: %w", err)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("read policy: no *.hcl file in %s", dir)
	}
	return files, nil
}

// Load compiles files, by name, for trustDomain (empty: for any). The set is
// nil exactly when the diagnostics hold an error. Load neither runs the tests
// in the files nor lints them; see [Check].
func Load(files map[string][]byte, trustDomain string) (*Set, Diagnostics) {
	r := &reader{
		report:  report{files: files},
		set:     &Set{trustDomain: trustDomain, files: maps.Clone(files), hash: HashFiles(files), groupIDs: map[string]int32{}},
		defined: map[string]hcl.Range{},
	}
	total := 0
	for _, src := range files {
		total += len(src)
	}
	if total > maxBytes {
		r.errorf(hcl.Range{}, "the policy is larger than %d MiB", maxBytes>>20)
		return nil, r.sorted()
	}
	bodies := r.parseAll()
	if bodies == nil {
		return nil, r.sorted()
	}
	for _, body := range bodies {
		r.known(body, "a policy file", topAttributes, topBlocks)
		r.header(body)
	}
	for _, body := range bodies {
		r.blocks(body)
	}
	r.link()
	found := r.sorted()
	if found.HasErrors() {
		// Warnings about a file that is half read mean nothing.
		return nil, slices.DeleteFunc(found, func(d Diagnostic) bool { return d.Severity == SeverityWarning })
	}
	r.set.index()
	r.set.finishBindings()
	return r.set, found
}

// reader turns files into a Set and collects the findings.
type reader struct {
	report
	set     *Set
	defined map[string]hcl.Range // `group "x"` and where it is
	pending []pendingGroup
}

// pendingGroup is a use of a group, resolved when all files are read.
type pendingGroup struct {
	name string
	at   hcl.Range
	into *selector
}

var (
	topAttributes = []string{"version", "trust_domain"}
	topBlocks     = []string{"group", "grant", "deny", "binding", "sites", "test"}
)

func (r *reader) blocks(body *hclsyntax.Body) {
	for _, b := range body.Blocks {
		if b.Type == "sites" {
			r.sites(b)
			continue
		}
		if !slices.Contains(topBlocks, b.Type) || !r.define(b) {
			continue
		}
		switch b.Type {
		case "group":
			r.group(b)
		case "grant", "deny":
			r.rule(b)
		case "binding":
			r.binding(b)
		case "test":
			r.test(b)
		}
	}
}

// parseAll returns the syntax trees of all files in order of name, or nil if one
// of them has none.
func (r *reader) parseAll() []*hclsyntax.Body {
	bodies := []*hclsyntax.Body{}
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		if body := r.parse(name, r.files[name]); body != nil {
			bodies = append(bodies, body)
		}
	}
	if len(bodies) < len(r.files) {
		return nil
	}
	return bodies
}

// parse returns the syntax tree of a file, or nil. HCL's parser recurses, so
// the depth is bounded before it sees the text; a panic in it is a bug of the
// parser that must not end the node.
func (r *reader) parse(name string, src []byte) (body *hclsyntax.Body) {
	defer func() {
		if p := recover(); p != nil {
			r.errorf(hcl.Range{Filename: name}, "the HCL parser failed on this file: %v", p)
			body = nil
		}
	}()
	if !r.bounded(name, src) {
		return nil
	}
	f, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	r.addHCL(diags)
	if f == nil || diags.HasErrors() {
		return nil
	}
	body, _ = f.Body.(*hclsyntax.Body)
	return body
}

// bounded refuses a file with nesting that would make recursion over it deep.
func (r *reader) bounded(name string, src []byte) bool {
	tokens, _ := hclsyntax.LexConfig(src, name, hcl.InitialPos)
	var open []hclsyntax.TokenType
	operators := 0
	for _, t := range tokens {
		switch t.Type { //nolint:exhaustive // only nesting and chaining tokens matter
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
			open = append(open, t.Type)
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc:
			open = open[:max(len(open)-1, 0)]
		case hclsyntax.TokenTemplateControl:
			r.errorf(t.Range, "%%{ } directives are not part of the policy language")
			return false
		case hclsyntax.TokenComma:
			operators = 0
		case hclsyntax.TokenNewline:
			if len(open) == 0 || open[len(open)-1] == hclsyntax.TokenOBrace {
				operators = 0
			}
		case hclsyntax.TokenIdent, hclsyntax.TokenNumberLit, hclsyntax.TokenQuotedLit, hclsyntax.TokenStringLit, hclsyntax.TokenComment, hclsyntax.TokenDot:
		default:
			operators++
		}
		if len(open) > maxNesting || operators > maxOperators {
			r.errorf(t.Range, "nested too deeply")
			return false
		}
	}
	return true
}

// header checks the attributes at the top of a file.
func (r *reader) header(body *hclsyntax.Body) {
	if v, at, ok := r.integer(body, "version"); ok {
		r.version(int(v), at)
	}
	if td, at, ok := r.text(body, "trust_domain"); ok && r.set.trustDomain != "" && td != r.set.trustDomain {
		r.errorf(at, "this policy is for trust domain %q, not for %q", td, r.set.trustDomain)
	} else if ok && r.set.trustDomain == "" {
		r.set.trustDomain = td
	}
}

// version takes over the version that a file names. Which one holds is about all
// files, so they must not differ.
func (r *reader) version(v int, at hcl.Range) {
	switch {
	case v < 1 || v > boundSites:
		r.errorf(at, "version %d of the policy language is not known; this program reads versions 1 and %d", v, boundSites)
	case r.set.version != 0 && r.set.version != v:
		first := r.set.versionAt
		r.errorf(at, "version %d here, and %d at %s:%d: the files of a policy have one version", v, r.set.version, first.Filename, first.Start.Line)
	default:
		r.set.version, r.set.versionAt = v, at
	}
}

// define checks the label of a block and that nothing else has its name.
func (r *reader) define(b *hclsyntax.Block) bool {
	if len(b.Labels) != 1 || strings.TrimSpace(b.Labels[0]) == "" {
		r.errorf(b.DefRange(), "write %s \"NAME\" { … }", b.Type)
		return false
	}
	name := b.Labels[0]
	if len(name) > 100 || printable(name) != name || strings.Contains(name, "\n") {
		r.errorf(b.LabelRanges[0], "a name is at most 100 printable characters")
		return false
	}
	if b.Type == "test" {
		return true // tests are never referred to
	}
	key := b.Type + " " + name
	if first, ok := r.defined[key]; ok {
		r.errorf(b.DefRange(), "%s %q is already defined at %s:%d", b.Type, name, first.Filename, first.Start.Line)
		return false
	}
	r.defined[key] = b.DefRange()
	return true
}

// link resolves the uses of groups.
func (r *reader) link() {
	names := slices.Sorted(maps.Keys(r.set.groupIDs))
	for _, p := range r.pending {
		if r.full() {
			return
		}
		id, ok := r.set.groupIDs[p.name]
		if !ok {
			hint := "; define it as: group \"" + p.name + "\" { members = […] }"
			if c := closest(p.name, names); c != "" {
				hint = suggest(p.name, names)
			}
			r.errorf(p.at, "no group %q%s", p.name, hint)
			continue
		}
		r.set.groups[id].used = true
		p.into.groups = append(p.into.groups, id)
	}
}
