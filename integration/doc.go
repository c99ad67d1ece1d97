// Package integration starts the programs that users start, in network
// namespaces of its own, and drives them with stock clients. It holds tests
// only and knows nothing of the packages behind the programs.
package integration
