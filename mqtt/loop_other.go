//go:build !linux

package mqtt

import (
	"net"
	"sync"
)

// Event loops are for Linux; elsewhere each client has a goroutine.
type loops struct{}

func (*loops) enter() {}
func (*loops) leave() {}

func (*loops) dismiss(*sync.WaitGroup) {}

func (*conn) join() (bool, error) { return false, nil }

type loop struct{}

func (*loop) release(*conn) {}

type socket struct{ net.Conn }
