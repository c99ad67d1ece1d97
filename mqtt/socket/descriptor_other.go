//go:build !linux

package socket

// Descriptor is a socket that an event loop reads. Those are for Linux: elsewhere
// there is none.
type Descriptor struct{}
