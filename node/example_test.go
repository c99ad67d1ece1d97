package node_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/eclipse/paho.golang/paho"

	"github.com/hpmq/hpmq/node"
)

// A program runs a node of its own, publishes to it and reads back.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	dir, err := os.MkdirTemp("", "node")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	n, err := node.New(ctx, node.Options{DataDir: dir, Shift: freeShift()})
	if err != nil {
		panic(err)
	}
	defer n.Close()
	ready, ended := make(chan struct{}), make(chan error)
	go func() { ended <- n.Run(ctx, func() { close(ready) }) }()
	<-ready

	conn, err := net.Dial("unix", filepath.Join(dir, node.MQTTSocketName))
	if err != nil {
		panic(err)
	}
	received := make(chan *paho.Publish)
	client := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
		func(p paho.PublishReceived) (bool, error) {
			received <- p.Packet
			return true, nil
		},
	}})
	_, err = client.Connect(ctx, &paho.Connect{KeepAlive: 30, CleanStart: true})
	if err == nil {
		_, err = client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "demo/#", QoS: 1}}})
	}
	if err == nil {
		_, err = client.Publish(ctx, &paho.Publish{Topic: "demo/hi", QoS: 1, Payload: []byte("hello")})
	}
	if err != nil {
		panic(err)
	}
	p := <-received
	fmt.Printf("%s %s\n", p.Topic, p.Payload)

	stop()
	fmt.Println(<-ended)
	// Output:
	// demo/hi hello
	// <nil>
}

// freeShift is a shift whose ports are free at the moment.
func freeShift() int {
	for shift := 20000; ; shift += 17 {
		free := true
		for _, port := range []int{1883, 8883, 9001, 8480, 7844, 14567} {
			l, err := net.Listen("tcp", fmt.Sprintf(":%d", port+shift))
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return shift
		}
	}
}
