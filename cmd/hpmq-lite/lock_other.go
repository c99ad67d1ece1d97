//go:build !unix

package main

import "errors"

var errLocked = errors.New("hpmq-lite is running here already")

// lockDir does not keep a second agent out on this system.
func lockDir(string) (unlock func(), err error) { return func() {}, nil }

// running cannot be told on this system; the status file speaks for itself.
func running(string) bool { return true }
