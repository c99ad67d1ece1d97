// Command peers measures this broker beside two that anybody can have: Debian's
// mosquitto and the mochi library (in the module below).
//
// For each row it starts each broker afresh, drives it with "hpmq bench", and
// takes the run with the median processor time. What it finds is printed and
// written between the two marks of docs/benchmarks.md. "make bench-broker" runs
// it; it needs nothing but this repository, Go and mosquitto.
package main
