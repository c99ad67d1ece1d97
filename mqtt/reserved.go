package mqtt

import (
	"strings"

	"github.com/hpmq/hpmq/mqtt/topic"
)

// deniedTopic is each identity's own view of its refusals. Every identity may
// subscribe to it, no client may publish there, and it never leaves the node.
const deniedTopic = "$hpmq/me/denied"

// builtIn is the rule of the verdicts that no policy can change.
const builtIn = "built in"

var reservedVerdict = Verdict{Rule: builtIn, Reason: "the topic belongs to the broker"}

// Reserved gives the broker's own verdict on topics that belong to it, and reports
// whether there is one: then no policy is asked. The action is publish, retain or
// will, with a Topic Name; subscribe, with a Topic Filter, $share/<name>/ included;
// or receive, with a Topic Name. The broker itself goes by this function.
//
// No client publishes below $SYS, $hpmq or $share. No client subscribes below $hpmq
// or $share, but for two: $hpmq/me/denied is open to every identity, and the policy
// decides about $hpmq/func/, where messages are that functions could not handle.
func Reserved(action, object string) (v Verdict, reserved bool) {
	switch action {
	case "publish", "retain", "will":
		if within(object, "$SYS") || within(object, "$hpmq") || within(object, "$share") {
			return reservedVerdict, true
		}
	case "subscribe", "receive":
		_, filter, shared, err := topic.ParseShared(object)
		switch {
		case filter == deniedTopic && !shared:
			return Verdict{Allowed: true, Rule: builtIn}, true
		case err != nil, within(filter, "$share"), within(filter, "$hpmq") && !strings.HasPrefix(filter, "$hpmq/func/"):
			return reservedVerdict, true
		}
	}
	return Verdict{}, false
}

// within reports whether the first level of name is level.
func within(name, level string) bool {
	rest, ok := strings.CutPrefix(name, level)
	return ok && (rest == "" || rest[0] == '/')
}
