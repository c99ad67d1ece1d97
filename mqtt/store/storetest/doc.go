// Package storetest holds what every form of store.Store must do, as tests that
// each form runs.
package storetest
