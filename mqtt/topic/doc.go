// Package topic decides how Topic Names and Topic Filters relate: whether they
// are valid, whether a filter matches a name, and whether one filter covers or
// overlaps another. [Match], [Covers] and [Overlaps] compare two. [Tree] holds the
// subscriptions that a name is matched with, [Filters] the filters of a policy,
// [Names] the retained messages that a filter asks for.
//
// Both protocol versions follow the rules of MQTT 5 section 4.7: `+` takes one whole
// level, `#` the rest including the level above it, and a filter that begins with a
// wildcard matches no name that begins with `$`. Names are compared byte by byte,
// without Unicode normalization [MQTT-4.7.3-4].
//
// The functions that compare take valid names and filters. For invalid ones they give
// some answer and never panic. The package knows no sessions and no rights; a
// shared subscription is its group and its filter, apart, from [ParseShared] on.
package topic
