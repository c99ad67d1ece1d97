package topic_test

import (
	"fmt"
	"slices"

	"github.com/hpmq/hpmq/mqtt/topic"
)

func Example() {
	// One filter and one name.
	fmt.Println(topic.Match("site/+/pump/#", "site/home/pump")) // # takes the level above it too
	fmt.Println(topic.Match("#", "$SYS/uptime"))                // no wildcard takes a $ at the beginning
	fmt.Println(topic.ValidFilter("site/#/pump"))

	// Many subscriptions and one name.
	tree := topic.NewTree[string, string]()
	tree.Add("site/home/#", "dashboard", "dashboard")
	tree.Add("site/+/pump/temp", "logger", "logger")
	tree.Add("site/lyon/#", "lyon", "lyon")
	subscribers := tree.Match(nil, "site/home/pump/temp")
	slices.Sort(subscribers)
	fmt.Println(subscribers)

	// Output:
	// true
	// false
	// has a # that is not alone at its end [MQTT-4.7.1-1]
	// [dashboard logger]
}

// A right to some topics holds for a subscription if one of its filters covers it.
func ExampleFilters() {
	var rights topic.Filters[string]
	rights.Add("site/home/#", "grant home")
	rights.Add("site/+/alarm", "grant alarms")

	ask := func(question func(string, func(*string) bool), filter string) {
		question(filter, func(rule *string) bool {
			fmt.Println(filter, "by", *rule)
			return true
		})
	}
	ask(rights.Covering, "site/home/pump/+")
	ask(rights.Covering, "site/+/+")
	ask(rights.Overlapping, "site/lyon/+")

	// Output:
	// site/home/pump/+ by grant home
	// site/lyon/+ by grant alarms
}
