package node

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/websocket"
	"github.com/hpmq/hpmq/node/control"
)

// The ports, before --ports shifts them.
const (
	portPlain   = 1883
	portTLS     = 8883
	portWeb     = 9001
	portQUIC    = 14567
	portOverlay = 7844
	portHTTP    = 8480
)

// MQTTSocketName is the name of the unix socket for MQTT clients in a data directory.
const MQTTSocketName = "mqtt.sock"

// Never is an [Options.OfflineMax] of no time at all.
const Never time.Duration = -1

// Options say which node to run. Only DataDir is needed.
type Options struct {
	DataDir     string
	Site        string                    // "" takes the site of the data directory or the ticket, else home
	Join        string                    // site ticket, only for a new data directory
	TrustDomain string                    // of a new fabric; "" makes one up
	Shift       int                       // added to every port
	Advertise   string                    // host by which other machines reach this node
	Proxies     map[string][]netip.Prefix // by listener: the addresses that send PROXY headers
	Origins     []string                  // web origins with pages that may use MQTT over WebSocket
	Log         logrus.FieldLogger        // nil is silent
	Version     string                    // of the program, for status and $SYS
	Limits      Limits

	Lifetimes authority.Lifetimes // of the certificates that a CA issues
	Grace     time.Duration       // after the end of a certificate, in which a CA still renews it
	// OfflineMax bounds the age of the directory's newest head: up to this age, peers
	// are served although their certificates have ended since. Zero is
	// [DefaultOfflineMax], and [Never] serves no such peer.
	OfflineMax time.Duration

	// ServerReference is where MQTT 5 clients are sent that this node cannot serve.
	ServerReference string
}

var sitePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)

const defaultSite = "home"

// check completes c and refuses values that cannot work. The errors address the
// person at the command line.
func (c *Options) check() error {
	c.Log = logfield.OrSilent(c.Log)
	if c.Site != "" && !sitePattern.MatchString(c.Site) {
		return control.Invalidf("--site %q: want 1-31 of a-z 0-9 -, beginning with a letter or digit", c.Site)
	}
	if portPlain+c.Shift < 1 || portQUIC+c.Shift > 65535 {
		return control.Invalidf("--ports %+d: the ports %d to %d would leave 1-65535", c.Shift, portPlain, portQUIC)
	}
	if _, err := websocket.New(websocket.Options{Origins: c.Origins}); err != nil {
		return control.Fail(control.Invalid, "", fmt.Errorf("--ws-origin: %w", err))
	}
	if err := checkReference("--server-reference", c.ServerReference); err != nil {
		return err
	}
	if err := c.checkLifetimes(); err != nil {
		return err
	}
	c.OfflineMax = max(cmp.Or(c.OfflineMax, DefaultOfflineMax), 0)
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return control.Fail(control.Invalid, "", err)
	}
	c.DataDir = dir
	if c.Advertise == "" {
		c.Advertise = defaultAddress()
	}
	if _, err := netip.ParseAddr(c.Advertise); err != nil && !hostPattern.MatchString(strings.ToLower(c.Advertise)) {
		return control.Invalidf("--advertise %q: want a host name or an address, without a port", c.Advertise)
	}
	return nil
}

// The bounds on the certificates that a CA issues. A minute is for labs and tests. A
// certificate longer than a quarter of a year would outlive the operator's memory.
const (
	minLifetime = 30 * time.Second
	maxLifetime = 90 * 24 * time.Hour
	maxGrace    = 365 * 24 * time.Hour
)

func (c *Options) checkLifetimes() error {
	for _, f := range []struct {
		flag        string
		value       time.Duration
		least, most time.Duration
	}{
		{"--device-lifetime", c.Lifetimes.Device, minLifetime, maxLifetime},
		{"--node-lifetime", c.Lifetimes.Node, minLifetime, maxLifetime},
		{"--user-lifetime", c.Lifetimes.User, minLifetime, maxLifetime},
		{"--renewal-grace", c.Grace, time.Second, maxGrace},
		{"--offline-max", c.OfflineMax, time.Second, maxGrace},
	} {
		if f.value == 0 || f.value == Never && f.flag == "--offline-max" {
			continue
		}
		if f.value < f.least || f.value > f.most {
			return control.Invalidf("%s %s: want %s to %s", f.flag, f.value, f.least, f.most)
		}
	}
	return nil
}

// defaultAddress is the address of the default route's interface: most likely the
// one by which other machines reach this machine. It sends no packet to find out.
func defaultAddress() string {
	for _, probe := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // documentation prefixes, RFC 5737 and RFC 3849
		conn, err := net.Dial("udp", probe)
		if err != nil {
			continue
		}
		addr := conn.LocalAddr().(*net.UDPAddr)
		conn.Close()
		return addr.IP.String()
	}
	for _, ip := range interfaceAddresses() {
		if !ip.IsLoopback() {
			return ip.String()
		}
	}
	return "127.0.0.1"
}

// interfaceAddresses are the addresses that a client could have dialled; the
// node's certificate names them all.
func interfaceAddresses() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	}
	var ips []netip.Addr
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		ips = append(ips, prefix.Addr())
	}
	return ips
}

// hostPattern matches the DNS names that a certificate may carry.
var hostPattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// maxServerNames is how many names and addresses one certificate may carry.
const maxServerNames = 32

// serverNames are the names and addresses in id's certificate on a machine that is
// called host and has these addresses. The names that are dialled most stand first.
// Inside the trust domain a node may have only its own name.
func (c *Options) serverNames(id identity.ID, host string, addrs []netip.Addr) []string {
	own := id.Name + ".node." + id.TrustDomain
	names := []string{"localhost"}
	for _, name := range []string{own, strings.ToLower(host)} {
		inside := name == id.TrustDomain || strings.HasSuffix(name, "."+id.TrustDomain)
		if hostPattern.MatchString(name) && (name == own || !inside) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	first := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	if ip, err := netip.ParseAddr(c.Advertise); err == nil {
		first = append(first, ip)
	} else {
		names = append(names, strings.ToLower(c.Advertise))
	}
	for _, ip := range slices.Concat(first, addrs) {
		name := ip.Unmap().WithZone("").String()
		if len(names) < maxServerNames && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// advertised is host:port of one of this node's ports as other machines dial it.
func (c *Options) advertised(port int) string {
	return net.JoinHostPort(c.Advertise, strconv.Itoa(port+c.Shift))
}

// probeOverlay tells whether the overlay will get its port; it opens it only
// when the node has an identity.
func (c *Options) probeOverlay() error {
	port := portOverlay + c.Shift
	l, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
	if err != nil {
		return c.listenError(control.ListenerOverlay, port, err)
	}
	return l.Close()
}

// listenError adds to a listen that failed how to mend it.
func (c *Options) listenError(name string, port int, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &control.Error{
			Code: control.Failed, Err: fmt.Errorf("listen for %s: port %d is in use", name, port),
			Hint: fmt.Sprintf("stop what uses it, or shift every port of this node: --ports %+d", c.Shift+100),
		}
	case errors.Is(err, syscall.EACCES):
		return &control.Error{
			Code: control.Failed, Err: fmt.Errorf("listen for %s on port %d: no right to", name, port),
			Hint: "ports below 1024 need root; shift them with --ports",
		}
	}
	return fmt.Errorf("listen for %s on port %d: %w", name, port, err)
}

// checkReference refuses a Server Reference that MQTT 5 clients cannot read. It is
// one or more of HOST, HOST:PORT and [IPV6]:PORT with spaces between (§4.11).
func checkReference(flag, reference string) error {
	for one := range strings.FieldsSeq(reference) {
		host, port, err := net.SplitHostPort(one)
		if err != nil {
			host, port = strings.TrimSuffix(strings.TrimPrefix(one, "["), "]"), "1"
		}
		number, err := strconv.ParseUint(port, 10, 16)
		if _, bad := netip.ParseAddr(host); err != nil || number == 0 || bad != nil && (host == "" || strings.ContainsAny(host, ":/[]")) {
			return control.Invalidf("%s %q: want HOST or HOST:PORT, an IPv6 address as [ADDRESS]:PORT", flag, one)
		}
	}
	return nil
}
