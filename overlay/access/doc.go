// Package access lets one identity reach a port of another through the mesh,
// without root, open ports or a network interface on either side.
//
// A caller runs TLS 1.3 with the target's agent, both with their certificates,
// over a carrier: a stream that nodes splice from the caller's node to the node
// where the agent is connected. The agent alone decides, by who the inner
// handshake proved the caller to be. Nodes see ciphertext: one that lies can
// refuse or cut a carrier, but neither read it, nor pass for the target, nor
// name another caller.
//
//	caller ── TLS ───────────────────────────────────────────── agent ── 127.0.0.1:port
//	       └ unix socket ┘ node ┘ hpmq-access/1 ┘ node ┘ hpmq-access/1 ┘
//
// [Dial] is the caller's end and [Forward] puts local connections on it, [Relay]
// is what a node does, [Agent] the target's end. [Feed] takes an agent its rules
// and [ReceiveRules] is where they arrive.
//
// The package decides how a carrier is found, how long it may take and how many
// there may be. It knows no policy: an agent asks a [Decider], and the rules
// that a node delivers are bytes here.
//
// # On the wire
//
// A frame is a two-byte length and that much JSON, unknown members ignored. A
// carrier on a mesh connection (protocol hpmq-access/1) begins with a header
// frame {target, hops} from the opener and one status byte back; all that
// follows is opaque. Hops is how often the carrier may still be passed on: 1 to
// a node, 0 to an agent, so that a node that was asked by a node asks no other.
// Within TLS the caller sends a request frame {network, port, host}, the agent
// answers {code, rule, reason}, and then the bytes belong to the connection,
// each half closed by its own close_notify.
//
// An agent's rules come on protocol hpmq-slice/1, one stream per delivery: a
// four-byte length, the signed slice, and a receipt frame {refused} back once
// the agent acts by it.
package access
