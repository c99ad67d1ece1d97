// Package node is one running node of a fabric: certificate authority or replica,
// broker, functions, mesh and links, fitted together and served until a context
// ends.
//
//	n, err := node.New(ctx, node.Options{DataDir: dir})
//	defer n.Close()
//	err = n.Run(ctx, func() { fmt.Println(n.Status().Listeners) })
//
// The packages below it decide, and do not know each other; wire.go translates
// between them. What happens when the directory or the policy changes is in
// changes.go; the answers of the control API (package node/control) are in api.go,
// sessions.go, records.go and backup.go.
//
// A process may run several nodes, each with its own data directory and ports. A
// node writes nothing to the standard logger and no package variable.
package node
