//go:build !unix

package mqtt

import "errors"

const canTryWrite = false

func tryWrite(uintptr, []byte) (n int, again bool, err error) {
	return 0, false, errors.ErrUnsupported
}
