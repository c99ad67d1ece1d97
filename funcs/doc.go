// Package funcs puts messages through WebAssembly functions.
//
// It decides which function of a chain sees a message, in which order, how a message
// goes on when its function fails, and which worker runs it. It knows no broker, no
// policy and no identities beyond their names: the caller says which bindings a
// client has ([NewChain]), submits messages ([Runtime.Submit]) and acts on the
// [Result].
//
// Messages are spread over workers by client. A worker handles one message at a
// time through the whole chain and owns its instances, so a client's messages
// keep their order and a guest never runs on two goroutines. A function that
// uses up its time limit delays only the clients of its own worker, by that limit
// for each such message. A client with messages that keep breaking a function is
// answered without running it, for longer each time.
//
// [Runtime.Swap] replaces the functions between two messages of each worker:
// messages submitted before it run on the old set, later ones on the new.
//
// The state of a function (its keys and the previous payload of each topic) lives
// here, keyed by function and identity. A call sees its own writes; they take
// effect when it succeeds and are handed to the caller as [Result.Writes] for
// the transaction of the message. If that fails, [Result.Discard] forgets them.
package funcs
