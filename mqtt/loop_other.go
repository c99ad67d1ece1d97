//go:build !linux

package mqtt

import "sync"

// Event loops are for Linux; elsewhere each client has a goroutine.
type loops struct{}

func (*loops) enter() {}
func (*loops) leave() {}

func (*loops) dismiss(*sync.WaitGroup) {}

func (*conn) joinLoop() (bool, error) { return false, nil }

type loop struct{}

func (*loop) remove(*conn) {}
