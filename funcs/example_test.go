package funcs_test

import (
	"context"
	"fmt"
	"os"

	"github.com/hpmq/hpmq/funcs"
	"github.com/hpmq/hpmq/funcs/wasm"
)

// A function judges the messages of a client before they go on. This one answers
// by the first byte: it drops "d", rejects "j" and passes the rest.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	engine, err := wasm.NewEngine(ctx, wasm.Options{})
	if err != nil {
		panic(err)
	}
	defer engine.Close(ctx)
	code, err := os.ReadFile("wasm/testdata/pass.wasm")
	if err != nil {
		panic(err)
	}
	r := funcs.New(funcs.Options{Engine: engine})
	if err := r.Swap(ctx, []funcs.Function{{Name: "judge", Code: code}}); err != nil {
		panic(err)
	}
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()

	chain, err := funcs.NewChain(funcs.Upstream, []funcs.Binding{{Function: "judge", Topics: []string{"site/+/+/raw"}}})
	if err != nil {
		panic(err)
	}
	pump := &funcs.Origin{Client: "pump-7", Identity: "spiffe://lab.test/device/pump-7", Site: "home"}
	results := make(chan funcs.Result)
	for _, payload := range []string{"ok", "drop me", "judge me"} {
		r.Submit(chain, pump, funcs.Message{Topic: "site/home/pump-7/raw", Payload: []byte(payload)},
			func(result funcs.Result) { results <- result })
		result := <-results
		fmt.Printf("%s: %v %q\n", payload, result.Verdict, result.Reason)
	}
	stop()
	fmt.Println(<-ended)
	// Output:
	// ok: pass ""
	// drop me: drop ""
	// judge me: reject "not here"
	// <nil>
}
