package mqtt

import (
	"time"

	"github.com/hpmq/hpmq/identity"
)

// Principal is the identity and the client that a connection acts for. The
// listener's [Admission] decides ID, the connection the rest.
type Principal struct {
	ID       identity.ID
	ClientID string
	Remote   string // network address, for people

	// Generation tells the credentials that proved ID apart, so that an
	// [Authorizer] can refuse one that was given up while its connection had no
	// session yet. The broker only passes it on; zero says nothing.
	Generation uint64

	// Until is when the credential ends that proved ID, and with it the connection;
	// see [Renewer]. The zero time is never.
	Until time.Time

	// Passwords lets a user name and password in CONNECT decide the identity. ID
	// is for a client without a user name, and may be zero: then such a client is
	// refused.
	Passwords bool
}

// Authorizer decides about the rights of principals.
type Authorizer interface {
	// Rights returns the rights of p, or nil if p may not even connect. It is asked
	// at CONNECT, for the identity of a function at its first message, and again
	// for all of them by [Broker.Reauthorize].
	Rights(p Principal) Rights
}

// Rights answer for one principal. They never change: a new policy gives new
// Rights. All methods are safe for concurrent use, and do not allocate where they
// allow.
type Rights interface {
	// Publish decides a PUBLISH. A message that is allowed at one size is allowed at
	// every smaller one: the broker remembers the largest.
	Publish(topic string, qos byte, retain bool, size int) Verdict
	// Subscribe decides a Topic Filter, without $share/<name>/.
	Subscribe(filter string) Verdict
	// Receive decides whether p may have messages of topic: some grant lets it
	// subscribe to the topic, and no deny hides that. It is asked for subscriptions
	// that were granted with Verdict.Filtered, and for messages that waited while
	// rights changed.
	Receive(topic string) Verdict
	// Will decides a will, at CONNECT and when it fires.
	Will(topic string, qos byte, retain bool, size int) Verdict
}

// Limited are [Rights] with ceilings for their identity, over all of its
// connections. The lower of a ceiling here and one in [Options] counts.
type Limited interface {
	Rights
	Limits() Limits
}

// Limits are the ceilings of one identity.
type Limits struct {
	Messages    Limit // PUBLISH packets per second
	Bytes       Limit // of PUBLISH packets, per second
	Connections Limit
}

// Limit is one ceiling. The zero value is none.
type Limit struct {
	N    int
	Rule string // that set it: `grant "sensor" main.hcl:14`
}

// Verdict is the answer to one question.
type Verdict struct {
	Allowed bool
	// Filtered tells of an allowed subscription that a deny overlaps: each topic
	// is asked for before it is delivered.
	Filtered bool
	Rule     string // the rule that decided, or the nearest grant: `grant "sensor" main.hcl:14`
	Reason   string // why not, for people; empty when allowed
}
