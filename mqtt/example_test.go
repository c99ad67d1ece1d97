package mqtt_test

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/eclipse/paho.golang/paho"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/store"
)

// everyone may do everything.
type everyone struct{}

func (everyone) Rights(mqtt.Principal) mqtt.Rights { return everyone{} }

func (everyone) Publish(string, byte, bool, int) mqtt.Verdict { return mqtt.Verdict{Allowed: true} }
func (everyone) Will(string, byte, bool, int) mqtt.Verdict    { return mqtt.Verdict{Allowed: true} }
func (everyone) Subscribe(string) mqtt.Verdict                { return mqtt.Verdict{Allowed: true} }
func (everyone) Receive(string) mqtt.Verdict                  { return mqtt.Verdict{Allowed: true} }

// A broker in memory serves one listener. What a client may do is the Authorizer's
// answer, and who it is, that of the function given to Serve.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	pump := identity.ID{TrustDomain: "lab.test", Kind: identity.Device, Name: "pump-7"}
	b := mqtt.New(mqtt.Options{Store: store.NewMemory(store.Limits{}), Authorizer: everyone{}})
	var serving sync.WaitGroup
	serving.Go(func() { fmt.Println("run:", b.Run(ctx)) })
	serving.Go(func() {
		_ = b.Serve(ctx, l, func(net.Conn) (mqtt.Principal, error) { return mqtt.Principal{ID: pump}, nil })
	})

	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		panic(err)
	}
	client := paho.NewClient(paho.ClientConfig{Conn: conn})
	if _, err := client.Connect(ctx, &paho.Connect{KeepAlive: 30, CleanStart: true}); err != nil {
		panic(err)
	}
	_, err = client.Publish(ctx, &paho.Publish{Topic: "site/home/pump-7/state", QoS: 1, Retain: true, Payload: []byte("on")})
	fmt.Println("publish:", err)
	for m := range b.Retained("site/#") {
		fmt.Println("retained:", m.Topic, m.Publisher)
	}
	stop()
	serving.Wait()
	// Output:
	// publish: <nil>
	// retained: site/home/pump-7/state spiffe://lab.test/device/pump-7
	// run: <nil>
}
