// Package trust decides what subjects may do at one site, by the directory and by
// the policy in force. It has one answer for each question, and the broker, the
// links and "hpmq why" ask for the same one.
//
//   - [Site.Subject]: is an identity active, and how does policy see it here?
//   - [Rights]: what may it publish and subscribe to at this site's broker?
//   - [Foreign]: may another site send this message?
//   - [Receivers]: may another site receive this message?
//
// The package holds no connection, no file and no goroutine. It does not know which
// topics belong to the broker itself: see mqtt.Reserved.
package trust
