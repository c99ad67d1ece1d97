package packet

import (
	"bytes"
	"encoding/binary"
)

// Connect opens a connection.
type Connect struct {
	// Version is the protocol level that Decode read, also one that it refuses
	// with UnsupportedProtocolVersion. Append writes the one it is given.
	Version      Version
	CleanStart   bool // Clean Session in 3.1.1
	UserNameFlag bool
	PasswordFlag bool
	KeepAlive    uint16 // seconds; 0: none
	ClientID     string
	Will         *Will
	UserName     string
	Password     []byte
	Properties   Properties
}

// Will is the message that a server publishes when the client is gone.
type Will struct {
	Retain     bool
	QoS        byte
	Topic      string
	Payload    []byte
	Properties Properties
}

// The bits of the Connect Flags.
const (
	flagReserved   = 1 << 0
	flagCleanStart = 1 << 1
	flagWill       = 1 << 2
	flagWillRetain = 1 << 5
	flagPassword   = 1 << 6
	flagUserName   = 1 << 7
	willQoSShift   = 3
)

const protocolName = "MQTT"

// Type returns [TypeConnect].
func (p *Connect) Type() Type { return TypeConnect }

// Decode implements [Packet]. The version is the packet's own, not v.
func (p *Connect) Decode(_ Version, flags byte, body []byte) error {
	*p = Connect{}
	if err := checkFlags(TypeConnect, flags); err != nil {
		return err
	}
	d := decoder{b: body}
	p.protocol(&d)
	c := d.byte("connect flags")
	p.checkConnectFlags(&d, c)
	p.CleanStart = c&flagCleanStart != 0
	p.UserNameFlag, p.PasswordFlag = c&flagUserName != 0, c&flagPassword != 0
	p.KeepAlive = d.uint16("keep alive")
	if p.Version == V5 {
		p.Properties.decode(&d, TypeConnect)
	}
	p.payload(&d, c)
	return d.end()
}

// protocol reads the name [MQTT-3.1.2-1] and the version [MQTT-3.1.2-2].
func (p *Connect) protocol(d *decoder) {
	name := d.text("protocol name", "")
	p.Version = Version(d.byte("protocol version"))
	switch {
	case d.err != nil:
	case string(name) != protocolName: // [MQTT-3.1.2-1]
		d.fail(&Error{UnsupportedProtocolVersion, "MQTT-3.1.2-1", "protocol name is not MQTT"})
	case p.Version != V311 && p.Version != V5: // [MQTT-3.1.2-2]
		d.fail(&Error{UnsupportedProtocolVersion, "MQTT-3.1.2-2", "protocol version is " + p.Version.String()})
	}
}

// checkConnectFlags applies the rules of section 3.1.2.
func (p *Connect) checkConnectFlags(d *decoder, c byte) {
	switch {
	case c&flagReserved != 0: // [MQTT-3.1.2-3]
		d.fail(malformed("MQTT-3.1.2-3", "reserved connect flag is set"))
	case c>>willQoSShift&3 == 3: // [MQTT-3.1.2-12]
		d.fail(malformed("MQTT-3.1.2-12", "Will QoS is 3"))
	case c&flagWill == 0 && c>>willQoSShift&3 != 0: // [MQTT-3.1.2-11]
		d.fail(malformed("MQTT-3.1.2-11", "Will QoS without a will"))
	case c&flagWill == 0 && c&flagWillRetain != 0: // [MQTT-3.1.2-13]
		d.fail(malformed("MQTT-3.1.2-13", "Will Retain without a will"))
	case p.Version == V311 && c&flagPassword != 0 && c&flagUserName == 0:
		d.fail(malformed("MQTT-3.1.1 [3.1.2-22]", "password without a user name"))
	}
}

// payload reads the fields that the flags announce, in the order of
// [MQTT-3.1.3-1].
func (p *Connect) payload(d *decoder, c byte) {
	p.ClientID = d.string("client identifier", "MQTT-3.1.3-4")
	if p.Version == V311 && p.ClientID == "" && !p.CleanStart { // [MQTT-3.1.3-8]
		d.fail(&Error{ClientIdentifierNotValid, "MQTT-3.1.1 [3.1.3-8]", "no client identifier, and no clean session"})
	}
	if c&flagWill != 0 { // [MQTT-3.1.2-9]
		p.Will = &Will{Retain: c&flagWillRetain != 0, QoS: c >> willQoSShift & 3}
		p.Will.decode(d, p.Version)
	}
	if p.UserNameFlag { // [MQTT-3.1.2-17]
		p.UserName = d.string("user name", "MQTT-3.1.3-12")
	}
	if p.PasswordFlag { // [MQTT-3.1.2-19]
		p.Password = bytes.Clone(d.binary("password"))
	}
}

func (w *Will) decode(d *decoder, v Version) {
	if v == V5 {
		w.Properties.decode(d, will)
	}
	topic := d.text("will topic", "MQTT-3.1.3-11")
	d.checkTopic(topic, "will topic", "MQTT-4.7.0-1")
	w.Topic = string(topic)
	w.Payload = bytes.Clone(d.binary("will payload"))
}

func (p *Connect) connectFlags() byte {
	var c byte
	if p.CleanStart {
		c |= flagCleanStart
	}
	if p.UserNameFlag {
		c |= flagUserName
	}
	if p.PasswordFlag {
		c |= flagPassword
	}
	if p.Will != nil {
		c |= flagWill | p.Will.QoS<<willQoSShift
	}
	if p.Will != nil && p.Will.Retain {
		c |= flagWillRetain
	}
	return c
}

func (p *Connect) length(v Version) int {
	n := 2 + len(protocolName) + 1 + 1 + 2 + textSize(p.ClientID)
	if v == V5 {
		n += p.Properties.Size()
	}
	if w := p.Will; w != nil {
		n += textSize(w.Topic) + binarySize(w.Payload)
		if v == V5 {
			n += w.Properties.Size()
		}
	}
	if p.UserNameFlag {
		n += textSize(p.UserName)
	}
	if p.PasswordFlag {
		n += binarySize(p.Password)
	}
	return n
}

// Append implements [Packet].
func (p *Connect) Append(dst []byte, v Version) []byte {
	dst = appendHeader(dst, TypeConnect, 0, p.length(v))
	dst = appendText(dst, protocolName)
	dst = append(dst, byte(v), p.connectFlags())
	dst = binary.BigEndian.AppendUint16(dst, p.KeepAlive)
	if v == V5 {
		dst = p.Properties.Append(dst)
	}
	dst = appendText(dst, p.ClientID)
	if w := p.Will; w != nil {
		if v == V5 {
			dst = w.Properties.Append(dst)
		}
		dst = appendBinary(appendText(dst, w.Topic), w.Payload)
	}
	if p.UserNameFlag {
		dst = appendText(dst, p.UserName)
	}
	if p.PasswordFlag {
		dst = appendBinary(dst, p.Password)
	}
	return dst
}

// Size implements [Packet].
func (p *Connect) Size(v Version) int { return packetSize(p.length(v)) }
