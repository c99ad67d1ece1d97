package wasm

import "fmt"

// wazero's decoder allocates as much as a module's counts ask for before it reads the
// elements, and counts locals up to 2^32: forty bytes of nonsense can ask for
// gigabytes. So every count is compared with the bytes behind it before wazero
// sees the module. The meaning of the instructions is left to wazero.

// Bounds of local variables, which take memory without taking room in a module.
const (
	maxLocals      = 50_000    // in one function, as in browsers
	maxTotalLocals = 4_000_000 // in a module
)

// checkCode reads one function body up to its instructions, and gives the number
// of its locals and where they end.
func checkCode(body []byte) (locals uint32, end int, err error) {
	r := &reader{b: body}
	for range r.count() {
		n := r.u32()
		r.byte() // type
		if locals += n; n > maxLocals || locals > maxLocals {
			r.fail(fmt.Errorf("more than %d local variables", maxLocals))
		}
		if r.err != nil {
			return 0, 0, r.err
		}
	}
	return locals, len(body) - len(r.b), r.err
}

// checkGlobals, checkElements and checkData read the sections named so.

func checkGlobals(r *reader) {
	for range r.count() {
		r.byte() // type
		r.byte() // mutability
		r.expression()
	}
}

func checkElements(r *reader) {
	const passive, explicit, expressions = 1, 2, 4 // bits of the kind
	for range r.count() {
		kind := r.u32()
		if kind > 7 {
			r.fail(fmt.Errorf("element segment of kind %d", kind))
		}
		if kind&passive == 0 {
			if kind&explicit != 0 {
				r.u32() // table
			}
			r.expression()
		}
		if kind&(passive|explicit) != 0 {
			r.byte() // type
		}
		for range r.count() {
			if kind&expressions != 0 {
				r.expression()
			} else {
				r.u32()
			}
		}
	}
}

func checkData(r *reader) {
	const active, passive, explicit = 0, 1, 2
	for range r.count() {
		switch kind := r.u32(); kind {
		case active:
			r.expression()
		case passive:
		case explicit:
			r.u32() // memory
			r.expression()
		default:
			r.fail(fmt.Errorf("data segment of kind %d", kind))
		}
		r.bytes(r.u32())
	}
}

// expression reads a constant expression to its end.
func (r *reader) expression() {
	for r.err == nil {
		switch op := r.byte(); op {
		case 0x0b: // end
			return
		case 0x41, 0x42: // i32.const, i64.const
			r.leb()
		case 0x43: // f32.const
			r.bytes(4)
		case 0x44: // f64.const
			r.bytes(8)
		case 0x23, 0xd2: // global.get, ref.func
			r.u32()
		case 0xd0: // ref.null
			r.byte()
		case 0xfd: // v128.const
			r.u32()
			r.bytes(16)
		default:
			r.fail(fmt.Errorf("instruction %#x in a constant expression", op))
		}
	}
}
