package wasm

import "fmt"

// checkpoint is an empty loop. wazero looks at its header whether the time is
// over.
var checkpoint = []byte{0x03, 0x40, 0x0b}

// longBranches is the weight of an instruction that works on as many bytes or
// entries as the guest likes: wazero makes loops of it. 4,000 in one function took
// 26 s to compile where as many loops took 1.1 s, and both grow with the square.
const longBranches = 5

// appendChecked appends the instructions of a function body to dst, with a
// checkpoint before each that works on as many bytes or entries as the guest
// likes: a thousand of them in a row would else take seconds. It counts branches,
// see [maxBranchSquares].
func appendChecked(dst, code []byte) (checked []byte, branches uint64, err error) {
	r := &reader{b: code}
	for len(r.b) > 0 && r.err == nil {
		from := r.b
		n, long := r.instruction()
		if r.err != nil {
			break
		}
		if branches += n; long {
			dst = append(dst, checkpoint...)
		}
		dst = append(dst, from[:len(from)-len(r.b)]...)
	}
	return dst, branches, r.err
}

// instruction passes over one instruction, and returns how many branches it counts
// as and whether its time depends on its operands.
func (r *reader) instruction() (branches uint64, long bool) {
	switch op := r.byte(); {
	case op == 0x00, op == 0x05, op == 0x0f: // unreachable, else, return
		return 1, false
	case op == 0x02, op == 0x03, op == 0x04: // block, loop, if
		r.leb() // a type index is signed
		return 1, false
	case op == 0x0c, op == 0x0d: // br, br_if
		r.u32()
		return 1, false
	case op == 0x0e: // br_table
		n := r.count()
		for range n {
			r.u32()
		}
		r.u32()
		return 1 + uint64(n)/4, false
	case op == 0x10: // call
		r.u32()
	case op == 0x11: // call_indirect
		r.u32()
		r.u32()
		return 1, false
	case op == 0x1c: // select with types
		r.bytes(r.count())
	case op >= 0x20 && op <= 0x26: // local, global and table access
		r.u32()
	case op >= 0x28 && op <= 0x3e: // loads and stores
		r.memarg()
	case op == 0x3f, op == 0x40: // memory.size, memory.grow
		r.byte()
	case op == 0x41, op == 0x42: // i32.const, i64.const
		r.leb()
	case op == 0x43:
		r.bytes(4)
	case op == 0x44:
		r.bytes(8)
	case op == 0xd0: // ref.null
		r.byte()
	case op == 0xd2: // ref.func
		r.u32()
	case op == 0xfc:
		if r.bulk(r.u32()) {
			return longBranches, true
		}
	case op == 0xfd:
		r.vector(r.u32())
	case op == 0x01, op == 0x0b, op == 0x1a, op == 0x1b, op >= 0x45 && op <= 0xc4, op == 0xd1:
	default:
		r.fail(fmt.Errorf("unknown instruction %#x", op))
	}
	return 0, false
}

// bulk passes over the operands of an instruction with prefix 0xfc.
func (r *reader) bulk(op uint32) (long bool) {
	switch op {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating truncations
		return false
	case 9, 13, 16: // data.drop, elem.drop, table.size
		r.u32()
		return false
	case 11, 15, 17: // memory.fill, table.grow, table.fill
		r.u32()
	case 8, 10, 12, 14: // memory.init, memory.copy, table.init, table.copy
		r.u32()
		r.u32()
	default:
		r.fail(fmt.Errorf("unknown instruction 0xfc %d", op))
	}
	return true
}

// vector passes over the operands of an instruction with prefix 0xfd.
func (r *reader) vector(op uint32) {
	switch {
	case op <= 11, op == 92, op == 93: // loads and stores
		r.memarg()
	case op == 12, op == 13: // v128.const, i8x16.shuffle
		r.bytes(16)
	case op >= 21 && op <= 34: // one lane
		r.byte()
	case op >= 84 && op <= 91: // loads and stores of a lane
		r.memarg()
		r.byte()
	case op > 255:
		r.fail(fmt.Errorf("unknown instruction 0xfd %d", op))
	}
}

func (r *reader) memarg() {
	r.u32() // alignment
	r.u32() // offset
}

// leb passes over a LEB128 number of at most 64 bits.
func (r *reader) leb() {
	for n := 0; r.byte()&0x80 != 0; n++ {
		if n == 10 {
			r.fail(errTruncated)
		}
	}
}
