//go:build !unix

package socket

import "errors"

const canTryWrite = false

func tryWrite(uintptr, []byte) (n int, again bool, err error) {
	return 0, false, errors.ErrUnsupported
}
