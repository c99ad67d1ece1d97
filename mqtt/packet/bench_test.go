package packet

import (
	"fmt"
	"testing"
)

func BenchmarkPublishDecode(b *testing.B) {
	for _, v := range []Version{V311, V5} {
		for qos := range byte(2) {
			p := Publish{QoS: qos, PacketID: 7, TopicName: []byte("site/a/line/12/temperature"), Payload: make([]byte, 64)}
			if qos == 0 {
				p.PacketID = 0
			}
			b.Run(fmt.Sprintf("version=%s/qos=%d", v, qos), func(b *testing.B) {
				buf := p.Append(nil, v)
				b.ReportAllocs()
				var got Publish
				for b.Loop() {
					h, n, err := ParseHeader(buf)
					if err == nil {
						err = got.Decode(v, h.Flags, buf[n:])
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkPublishDecodeProperties(b *testing.B) {
	p := Publish{TopicName: []byte("site/a/line/12/temperature"), Payload: make([]byte, 64)}
	p.Properties.SetMessageExpiryInterval(60)
	p.Properties.SetContentType("application/json")
	p.Properties.User = []UserProperty{{"unit", "celsius"}, {"source", "pump-7"}}
	buf := p.Append(nil, V5)
	h, n, _ := ParseHeader(buf)
	b.ReportAllocs()
	var got Publish
	for b.Loop() {
		if err := got.Decode(V5, h.Flags, buf[n:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPublishAppend(b *testing.B) {
	for _, v := range []Version{V311, V5} {
		b.Run("version="+v.String(), func(b *testing.B) {
			p := Publish{QoS: 1, PacketID: 7, TopicName: []byte("site/a/line/12/temperature"), Payload: make([]byte, 64)}
			dst := make([]byte, 0, 256)
			b.ReportAllocs()
			for b.Loop() {
				dst = p.Append(dst[:0], v)
			}
		})
	}
}

func BenchmarkEncodedAppend(b *testing.B) {
	p := Publish{QoS: 1, TopicName: []byte("site/a/line/12/temperature"), Payload: make([]byte, 64)}
	e := p.Encode(nil, V5)
	dst := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		dst = e.Append(dst[:0], 7, false)
	}
}

func BenchmarkPuback(b *testing.B) {
	p := Puback{PacketID: 7}
	dst := make([]byte, 0, 16)
	b.ReportAllocs()
	for b.Loop() {
		dst = p.Append(dst[:0], V5)
		if err := p.Decode(V5, 0, dst[2:]); err != nil {
			b.Fatal(err)
		}
	}
}
