//go:build !linux

package mqtt

import "sync"

// Event loops are for Linux; elsewhere each client has a goroutine.
type loops struct{}

func (*loops) addUser()    {}
func (*loops) removeUser() {}

func (*loops) endClients(*sync.WaitGroup) {}

func (*conn) joinLoop() (bool, error) { return false, nil }

type loop struct{}

func (*loop) removeConn(*conn) {}
