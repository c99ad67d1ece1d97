// Package conformance reads docs/conformance.md, the list of the normative
// statements of MQTT 5 and of the tests that prove them, and finds those tests
// and the branches that obey the statements in the source.
//
// It decides whether the list is complete and true to the source. Whether a test
// can fail at all is found out by the program in the directory mutants.
package conformance
