// Package logfield holds the names of structured log fields, one spelling each,
// so that one query finds every line about a client, an identity or a peer.
package logfield

// The fields. Values are never keys, tokens or payloads.
const (
	ClientID = "client_id" // MQTT client identifier
	SPIFFEID = "spiffe_id" // identity.ID in its URI form
	Topic    = "topic"     // topic name
	Filter   = "filter"    // topic filter
	Peer     = "peer"      // SPIFFE ID of the other end of a mesh connection
	Remote   = "remote"    // network address of the other end
	Site     = "site"      // site name
	Reason   = "reason"    // why, for people
	Function = "function"  // function name
	Rule     = "rule"      // policy rule, file:line
	File     = "file"      // path of a file
	Version  = "version"   // version of a policy, record or module
	Dropped  = "dropped"   // how many messages were
	Asleep   = "asleep"    // how many subscriptions began to sleep
	Until    = "until"     // when something ends
	Hint     = "hint"      // what to do about it, for people
)
