// Package control is the control API of a node: its endpoints with the types of
// their requests and replies, its errors, and a client.
//
// The API is HTTP and JSON on a unix socket in the node's data directory. A
// process that can open the socket, which has mode 0600 in a directory of mode
// 0700, is the operator; there is no other check.
//
// The replies are the stable form of -o json. Times are RFC 3339. Durations are
// numbers of seconds, in a field whose name ends in _seconds. A list is one JSON
// object per line, in the reply and in the output of a command, so that neither
// side holds it whole. An error is {"error": "…", "hint": "…", "code": "…"}.
//
// An [Endpoint] or a [List] is declared once. The node registers its answer with
// Handle, a client asks with Ask. The package decides nothing about a node: see
// package node for the answers.
package control
