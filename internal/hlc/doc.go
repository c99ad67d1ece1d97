// Package hlc has the hybrid logical clock of messages and of directory records, after
// Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks" (2014).
//
// A reading is one number that orders events and tells about when they were: the
// milliseconds since 1970 in the upper 48 bits, a counter in the lower 16. The paper
// splits an NTP timestamp in the same way. Readings are compared as numbers.
//
//   - Events within one millisecond differ in the counter.
//   - When the wall clock runs back, or stands behind a reading that was heard of,
//     readings go on from the highest one by the counter, until the wall clock has
//     passed it.
//   - A full counter runs over into the milliseconds. The order stays, and the
//     reading is a millisecond ahead for each 65,536 events that came too early.
//   - The milliseconds last until the year 10889. A wall clock before 1970 counts as
//     1970.
//
// The paper bounds how far readings run ahead of the wall clock by leaving out messages
// from further ahead. Here [Clock.Observe] takes such a reading for one of [MaxAhead]
// from now, since the message still has to be kept.
package hlc
