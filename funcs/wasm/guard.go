package wasm

import (
	"errors"
	"fmt"
	"slices"
)

// wazero stops a guest only at loop headers, so a tree of calls without a loop
// would run for ever, and it lets the call stack grow to 400 MB. The guard
// closes both holes by rewriting the module before it is compiled. Every function
// becomes a small wrapper, which counts the depth, traps at [maxDepth], holds one
// empty loop (whose header is a termination check) and calls the original body,
// moved behind the last function. Indices of functions do not change. So inside the
// bodies there is only one change: a like loop before each instruction that can take
// long by itself.
//
// The guard is one half of the time limit and the deadline of instance.go the
// other; metering by instructions can replace both without touching the rest.

const (
	// maxDepth bounds nested calls. It is below what wazero's interpreter
	// allows (2,000 frames, two for each guarded call), so that a function
	// behaves the same in both engines.
	maxDepth = 900

	// maxTable bounds the entries of all tables of a module: 8 MiB.
	maxTable = 1 << 20

	// maxBranchSquares bounds the sum, over all functions of a module, of the
	// square of a function's branches, because wazero takes time in proportion to
	// it, which nothing can cut short: modules at half the bound took 3.5 to 10 s.
	// A program of 3,653 functions that holds much of Go's library has 52 million.
	maxBranchSquares = 1 << 28

	depthExport = "hpmq.depth"
)

// imported is one import of a module.
type imported struct{ module, name string }

// guarded is a module rewritten by [guard].
type guarded struct {
	plain   []byte // as it came, without custom sections
	code    []byte // to be compiled
	imports []imported
}

// guard rewrites code, valid or not, and checks its structure. The caller must
// still validate guarded.plain: an invalid module could name the depth counter,
// which has the first index that the original does not have.
//
// Custom sections are left out: offsets in debug sections no longer hold.
func guard(code []byte) (*guarded, error) {
	sections, err := splitSections(code)
	if err != nil {
		return nil, err
	}
	g := &rewriter{}
	sections = slices.DeleteFunc(sections, func(s section) bool { return s.id == secCustom })
	plain := slices.Clone(magicCore)
	for _, s := range sections {
		if err := g.read(s); err != nil {
			return nil, fmt.Errorf("section %d: %w", s.id, err)
		}
		plain = appendSection(plain, s)
	}
	if len(g.bodies) != len(g.functions) {
		return nil, errors.New("function and code sections differ in length")
	}
	return &guarded{plain: plain, code: g.write(sections), imports: g.imports}, nil
}

// rewriter holds the parts of the module from which the wrappers are made.
type rewriter struct {
	params    []uint32 // parameters of each type
	imports   []imported
	functions []uint32 // type of each function of the module
	bodies    [][]byte
	locals    uint32 // of all bodies
	branches  uint64 // the sum of the squares of the bodies'
	tables    []byte // the table section, bounded
	globals   uint32
	globalSec []byte // the global section's entries
	exports   uint32
	exportSec []byte // the export section's entries
}

func (g *rewriter) read(s section) error {
	r := &reader{b: s.body}
	switch s.id {
	case secType:
		g.readTypes(r)
	case secImport:
		g.readImports(r)
	case secFunction:
		for range r.count() {
			t := r.u32()
			if int(t) >= len(g.params) {
				r.fail(fmt.Errorf("unknown type %d", t))
			}
			g.functions = append(g.functions, t)
		}
	case secTable:
		g.readTables(r)
	case secGlobal:
		checkGlobals(r)
		head := &reader{b: s.body}
		g.globals, g.globalSec = head.u32(), head.b
	case secExport:
		g.readExports(r)
	case secElement:
		checkElements(r)
	case secCode:
		g.readCode(r)
	case secData:
		checkData(r)
	}
	return r.err
}

func (g *rewriter) readCode(r *reader) {
	for range r.count() {
		body := r.bytes(r.u32())
		locals, end, err := checkCode(body)
		if g.locals += locals; err == nil && g.locals > maxTotalLocals {
			err = fmt.Errorf("more than %d local variables", maxTotalLocals)
		}
		if err == nil {
			body, err = g.check(body, end)
		}
		if err != nil {
			r.fail(fmt.Errorf("function %d: %w", len(g.bodies), err))
			return
		}
		g.bodies = append(g.bodies, body)
	}
}

// check returns body with checkpoints. Its instructions begin at from.
func (g *rewriter) check(body []byte, from int) ([]byte, error) {
	checked, n, err := appendChecked(slices.Clone(body[:from]), body[from:])
	if g.branches += n * n; err == nil && g.branches > maxBranchSquares {
		err = fmt.Errorf("it would take too long to compile: it has %d branches, or all together too many; make its functions smaller", n)
	}
	return checked, err
}

func (g *rewriter) readTypes(r *reader) {
	for range r.count() {
		if form := r.byte(); form != 0x60 && r.err == nil {
			r.fail(fmt.Errorf("type of form %#x is not a function", form))
		}
		params := r.u32()
		r.bytes(params)
		r.bytes(r.u32()) // results
		g.params = append(g.params, params)
	}
}

func (g *rewriter) readImports(r *reader) {
	for range r.count() {
		imp := imported{r.name(), r.name()}
		if kind := r.byte(); kind != 0 && r.err == nil {
			r.fail(fmt.Errorf("import %s.%s is not a function", imp.module, imp.name))
		}
		r.u32() // type
		g.imports = append(g.imports, imp)
	}
}

// readTables gives every table an upper bound, an equal share of maxTable:
// table.grow allocates on the host's heap, outside the guest's memory limit.
func (g *rewriter) readTables(r *reader) {
	n := r.count()
	g.tables = appendU32(nil, n)
	share := maxTable / max(n, 1)
	for range n {
		elem := r.byte()
		lo, hi, bounded := r.limits()
		if lo > share {
			r.fail(fmt.Errorf("one of %d tables has %d entries, at most %d are allowed", n, lo, share))
		}
		if !bounded || hi > share {
			hi = share
		}
		g.tables = append(g.tables, elem, 1)
		g.tables = appendU32(appendU32(g.tables, lo), hi)
	}
}

func (g *rewriter) readExports(r *reader) {
	g.exports = r.u32()
	g.exportSec = r.b
	for range g.exports {
		if name := r.name(); name == depthExport {
			r.fail(fmt.Errorf("export %q is reserved", name))
		}
		r.byte()
		r.u32()
		if r.err != nil {
			return
		}
	}
}

// write puts the module together again.
func (g *rewriter) write(sections []section) []byte {
	var out []byte
	out = append(out, magicCore...)
	if !slices.ContainsFunc(sections, func(s section) bool { return s.id == secGlobal }) {
		at := slices.IndexFunc(sections, func(s section) bool { return sectionOrder[s.id] > sectionOrder[secGlobal] })
		if at < 0 {
			at = len(sections)
		}
		sections = slices.Insert(slices.Clone(sections), at, section{id: secGlobal})
	}
	for _, s := range sections {
		switch s.id {
		case secFunction:
			s.body = g.functionSection()
		case secTable:
			s.body = g.tables
		case secGlobal:
			s.body = slices.Concat(appendU32(nil, g.globals+1), g.globalSec, []byte{0x7f, 1, 0x41, 0, 0x0b}) // mut i32 = 0
		case secExport:
			s.body = append(appendU32(nil, g.exports+1), g.exportSec...)
			s.body = append(appendU32(s.body, uint32(len(depthExport))), depthExport...)
			s.body = appendU32(append(s.body, 3), g.globals)
		case secCode:
			s.body = g.codeSection()
		}
		out = appendSection(out, s)
	}
	return out
}

func (g *rewriter) functionSection() []byte {
	b := appendU32(nil, uint32(2*len(g.functions)))
	for range 2 { // the wrappers, then the bodies they call
		for _, t := range g.functions {
			b = appendU32(b, t)
		}
	}
	return b
}

func (g *rewriter) codeSection() []byte {
	b := appendU32(nil, uint32(2*len(g.bodies)))
	var w []byte
	first := uint32(len(g.imports) + len(g.functions))
	for i, t := range g.functions {
		w = g.appendWrapper(w[:0], g.params[t], first+uint32(i))
		b = append(appendU32(b, uint32(len(w))), w...)
	}
	for _, body := range g.bodies {
		b = append(appendU32(b, uint32(len(body))), body...)
	}
	return b
}

// appendWrapper writes the body of one wrapper around the function body.
func (g *rewriter) appendWrapper(w []byte, params, body uint32) []byte {
	const (
		globalGet, globalSet = 0x23, 0x24
		localGet, call       = 0x20, 0x10
		i32Const, i32GeU     = 0x41, 0x4f
		i32Add, i32Sub       = 0x6a, 0x6b
		loop, ifOp, void     = 0x03, 0x04, 0x40
		unreachable, end     = 0x00, 0x0b
	)
	depth := func(op byte) { w = appendU32(append(w, op), g.globals) }
	w = append(w, 0) // no locals
	depth(globalGet)
	w = append(w, i32Const, maxDepth&0x7f|0x80, maxDepth>>7, i32GeU, ifOp, void, unreachable, end)
	depth(globalGet)
	w = append(w, i32Const, 1, i32Add)
	depth(globalSet)
	w = append(w, loop, void, end)
	for p := range params {
		w = appendU32(append(w, localGet), p)
	}
	w = appendU32(append(w, call), body)
	depth(globalGet)
	w = append(w, i32Const, 1, i32Sub)
	depth(globalSet)
	return append(w, end)
}
