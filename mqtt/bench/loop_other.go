//go:build !linux

package bench

// newLoop returns the loop that drives l's kind of connection.
func newLoop(*link, int) (loop, error) { return newStreamLoop(), nil }
