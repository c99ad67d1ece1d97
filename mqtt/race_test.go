//go:build race

package mqtt

// raceDetector is on: pools lose things on purpose then, so allocations are not
// counted.
const raceDetector = true
