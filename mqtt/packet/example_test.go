package packet_test

import (
	"bufio"
	"bytes"
	"fmt"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// A message is written for one version of the protocol and read back.
func Example() {
	sent := &packet.Publish{QoS: 1, PacketID: 7, TopicName: []byte("site/home/pump-7/raw"), Payload: []byte("3.2 bar")}
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		wire := sent.Append(nil, v)
		p, err := packet.Read(bufio.NewReader(bytes.NewReader(wire)), v, 1<<20)
		if err != nil {
			panic(err)
		}
		got := p.(*packet.Publish)
		fmt.Printf("%s: %d bytes, %s %q\n", v, len(wire), got.TopicName, got.Payload)
	}
	// Output:
	// 3.1.1: 33 bytes, site/home/pump-7/raw "3.2 bar"
	// 5: 34 bytes, site/home/pump-7/raw "3.2 bar"
}

// The error of bytes that are no packet has the reason code to answer with.
func ExampleRead() {
	reserved := []byte{0xf1, 0} // AUTH with a flag that must be zero
	_, err := packet.Read(bufio.NewReader(bytes.NewReader(reserved)), packet.V5, 1<<20)
	fmt.Println(err)
	// Output:
	// reserved flags of AUTH are 1 (0x81 malformed packet) [MQTT-3.15.1-1]
}

// A reason that is longer than the receiver takes is left out.
func ExampleFit() {
	p := &packet.Puback{PacketID: 7, ReasonCode: packet.NotAuthorized}
	p.Properties.SetReasonString("no grant for site/home/pump-7/raw")
	fmt.Println(p.Size(packet.V5), packet.Fit(p, packet.V5, 10), p.Size(packet.V5))
	// Output:
	// 42 true 5
}
