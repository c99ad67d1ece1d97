// Package storetest holds the duties of every form of store.Store, as tests that each
// form runs.
package storetest
