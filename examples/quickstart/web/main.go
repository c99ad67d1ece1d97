// Command web is the web server on the quickstart's device: a page, and a
// stream of lines that lasts as long as the connection.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	addr := "127.0.0.1:8080"
	if len(os.Args) > 1 {
		addr = os.Args[1]
	}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "pump-7: running, 3.2 bar")
	})
	http.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			if _, err := fmt.Fprintln(w, "line", n); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush() // a broken connection shows at the next line
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	})
	log.Fatal(http.ListenAndServe(addr, nil)) //nolint:gosec // a demo server on loopback
}
