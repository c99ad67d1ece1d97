// Command guest answers each message with what one host call gave, so that the
// host's tests can see the SDK work from inside WebAssembly.
package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	hpmq "github.com/hpmq/hpmq/funcs/sdk/go"
)

var greeting string

func init() {
	hpmq.Init(func(config []byte) error {
		if string(config) == "bad" {
			return errors.New("bad configuration")
		}
		greeting = string(config)
		return nil
	})
	hpmq.Upstream(answer)
}

func main() {}

func answer(m *hpmq.Message) hpmq.Result {
	verb, arg, _ := strings.Cut(string(m.Payload), " ")
	say := func(format string, args ...any) hpmq.Result {
		return hpmq.Publish(hpmq.Message{Topic: "out/" + verb, Payload: fmt.Appendf(nil, format, args...), QoS: m.QoS, Retain: m.Retain})
	}
	switch verb {
	case "put":
		return say("%v", hpmq.KV.Put("key", []byte(arg)))
	case "fill":
		return say("%v", hpmq.KV.Put("key", make([]byte, 5000)))
	case "get":
		v, ok, err := hpmq.KV.Get("key")
		return say("%d %.10q %t %v", len(v), v, ok, err)
	case "delete":
		return say("%v", hpmq.KV.Delete("key"))
	case "prev":
		v, ok := m.Prev()
		return say("%q %t", v, ok)
	case "prevof":
		v, ok, err := hpmq.Prev(arg)
		return say("%q %t %v", v, ok, err)
	case "time":
		ms, err := hpmq.TimeMillis()
		return say("%t %v", ms > 0, err)
	case "context":
		return say("%s %s %s %s %s %s %s.", m.Context("identity"), m.Context("client_id"), m.Context("site"), m.Context("direction"), m.Context("qos"), m.Context("retain"), m.Context("none"))
	case "init":
		return say("%s", greeting)
	case "log":
		hpmq.Log(hpmq.Warning, arg)
		fmt.Println("standard output", arg)
		return hpmq.Drop()
	case "reject":
		return hpmq.Reject(hpmq.QuotaExceeded, arg)
	case "garbage":
		var garbage [][]byte
		for len(garbage) < 64 {
			garbage = append(garbage, make([]byte, 16<<10+len(arg)))
		}
		return hpmq.Drop()
	case "sleep":
		began := time.Now()
		<-time.After(time.Minute)
		return say("%v", time.Since(began) >= time.Minute)
	case "none":
		return hpmq.Publish()
	case "fail":
		return hpmq.Fail(errors.New(arg))
	case "panic":
		panic(arg)
	default:
		return hpmq.Pass()
	}
}
