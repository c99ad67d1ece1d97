package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	readHolding = 3
	readInput   = 4
	exception   = 0x80 // set in the function code of a refusal
)

// decodeRTU reads the answer to function 3 or 4 from one RTU frame: unit,
// function, byte count, registers, CRC (Modbus over serial line 1.02, §2.5.1).
func decodeRTU(frame []byte) (map[string]any, error) {
	if len(frame) < 5 || len(frame) > 256 {
		return nil, fmt.Errorf("%d bytes are no Modbus RTU frame", len(frame))
	}
	body := frame[:len(frame)-2]
	if got, want := binary.LittleEndian.Uint16(frame[len(body):]), crc16(body); got != want {
		return nil, fmt.Errorf("frame with checksum %04x, want %04x", got, want)
	}
	unit, function, data := body[0], body[1], body[2:]
	fields := map[string]any{"unit": unit, "function": function &^ exception}
	switch function {
	case readHolding, readInput:
		if int(data[0]) != len(data)-1 || data[0]%2 != 0 || data[0] == 0 {
			return nil, errors.New("the frame is not an answer: its byte count does not fit")
		}
		for i := 0; i < int(data[0])/2; i++ {
			fields[fmt.Sprintf("registers.%d", i)] = binary.BigEndian.Uint16(data[1+2*i:])
		}
	case readHolding | exception, readInput | exception:
		if len(data) != 1 {
			return nil, errors.New("the exception frame has the wrong length")
		}
		fields["exception"] = data[0]
	default:
		return nil, fmt.Errorf("frame of function %d, which is not handled", function)
	}
	return fields, nil
}

// crc16 is the checksum of Modbus RTU.
func crc16(b []byte) uint16 {
	crc := uint16(0xffff)
	for _, c := range b {
		crc ^= uint16(c)
		for range 8 {
			odd := crc&1 != 0
			crc >>= 1
			if odd {
				crc ^= 0xa001
			}
		}
	}
	return crc
}
