package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/mqtt/bench"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/quic"
	"github.com/hpmq/hpmq/node/control"
)

// benchReply is one scenario's line of -o json.
type benchReply struct {
	*bench.Result
	Error string `json:"error,omitempty"` // why there is no result
}

// benchFlags say which broker, and change scenarios.
type benchFlags struct {
	mqttFlags
	url, version, prefix string
	pid                  int
	load                 bench.Load // from the flags that were given
	qos                  int
}

func newBenchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench [SCENARIO…]",
		Short: "Measure a broker: what a message costs it, how fast it is, and whether all arrive",
		Long: `Measure a broker: what a message costs it, how fast it is, and whether all arrive.

Each scenario publishes as fast as flow control allows, or at a rate, checks
every delivery, and prints messages per second and, when the broker runs on this
machine, the processor time that it spends on one of them. Without --url it is
the node that runs here; for another broker say where, and its process.

It exits with 1 when a message was lost, repeated or out of order.`,
		Example: `  hpmq bench                                     every scenario, about a minute
  hpmq bench pairs-q1 fanout-q0 -o json          these two
  hpmq bench --list                              what there is
  hpmq bench pairs-q0 --size 256 --rate 20000    changed by flags
  hpmq bench --url mqtt://localhost:1883 --pid $(pidof mosquitto)
  hpmq bench connect --url mqtts://localhost:8883 --cafile ca.pem --cert cert.pem --key key.pem`,
	}
	addOutputFlag(cmd)
	f := new(benchFlags)
	list := cmd.Flags().Bool("list", false, "list the scenarios")
	f.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *list {
			return printLoads(cmd)
		}
		loads, err := f.loads(cmd, args)
		if err != nil {
			return err
		}
		target, err := f.target(cmd)
		if err != nil {
			return err
		}
		return runLoads(cmd, target, loads)
	}
	return cmd
}

func (f *benchFlags) add(cmd *cobra.Command) {
	fl, l := cmd.Flags(), &f.load
	fl.StringVar(&f.url, "url", "", "broker: mqtt://, mqtts://, ws://, wss:// or quic:// `host:port`, or unix:///path (default: the node that runs here)")
	fl.StringVar(&f.ca, "cafile", "", "`file` with the roots that the broker's certificate must lead to")
	fl.StringVar(&f.cert, "cert", "", "`file` with the clients' certificate")
	fl.StringVar(&f.key, "key", "", "`file` with the certificate's key")
	fl.StringVarP(&f.user, "username", "u", "", "user `name`")
	fl.StringVarP(&f.password, "pw", "P", "", "`password`")
	fl.StringVarP(&f.version, "protocol-version", "V", "3.1.1", "of MQTT: 3.1.1 or 5")
	fl.StringVar(&f.prefix, "prefix", fmt.Sprintf("demo/bench-%d", os.Getpid()), "`topic` under which all is published; the broker must allow it")
	fl.IntVar(&f.pid, "pid", 0, "the broker's process, to measure what it costs (default: the node's own)")

	fl.IntVar(&l.Publishers, "publishers", 0, "publishing clients")
	fl.IntVar(&l.Subscribers, "subscribers", 0, "subscribing clients")
	fl.IntVar(&l.Topics, "topics", 0, "topics; publisher and subscriber i use topic i mod this")
	fl.IntVar(&l.Filters, "filters", 0, "filters spread over the subscribers, four for each topic")
	fl.IntVarP(&f.qos, "qos", "q", 0, "quality of service: 0, 1 or 2")
	fl.IntVar(&l.Size, "size", 0, "`bytes` of payload")
	fl.Float64Var(&l.Rate, "rate", 0, "messages published per second in all; 0: as fast as flow control allows")
	fl.IntVar(&l.Batch, "batch", 0, "messages per write at most; 0: no limit")
	fl.IntVar(&l.Window, "window", 0, "messages on their way to a subscriber")
	fl.IntVar(&l.Inflight, "inflight", 0, "unacknowledged messages of a publisher, QoS 1 and 2")
	fl.BoolVar(&l.Persistent, "persistent", false, "the subscribers' sessions outlive their connections, so that the broker must keep the messages")
	fl.IntVar(&l.Connections, "connections", 0, "connect, idle: how many")
	fl.IntVar(&l.Concurrency, "concurrency", 0, "connect, idle: at a time")
	fl.DurationVar(&l.Duration, "duration", 0, "measured time of each scenario")
	fl.DurationVar(&l.Warmup, "warmup", 0, "time before what is measured")
	fl.DurationVar(&l.Patience, "patience", 0, "without a delivery, before missing messages are given up")
}

// loads returns the scenarios that args name, all of them if none, as the flags
// change them.
func (f *benchFlags) loads(cmd *cobra.Command, args []string) ([]bench.Load, error) {
	all := bench.Loads()
	var chosen []bench.Load
	for _, name := range args {
		i := slices.IndexFunc(all, func(l bench.Load) bool { return l.Name == name })
		if i < 0 {
			return nil, control.Fail(control.Invalid, "see: hpmq bench --list", fmt.Errorf("no scenario is called %s", name))
		}
		chosen = append(chosen, all[i])
	}
	if len(args) == 0 {
		chosen = all
	}
	if f.qos < 0 || f.qos > 2 {
		return nil, control.Invalidf("quality of service %d: want 0, 1 or 2", f.qos)
	}
	f.load.QoS = byte(f.qos)
	for i := range chosen {
		f.change(cmd, &chosen[i])
		if err := chosen[i].Check(); err != nil {
			return nil, control.Fail(control.Invalid, "", err)
		}
	}
	return chosen, nil
}

// change sets the values of given flags in l.
func (f *benchFlags) change(cmd *cobra.Command, l *bench.Load) {
	from := &f.load
	for name, set := range map[string]func(){
		"publishers": func() { l.Publishers = from.Publishers }, "subscribers": func() { l.Subscribers = from.Subscribers },
		"topics": func() { l.Topics, l.Wildcard = from.Topics, false }, "filters": func() { l.Filters = from.Filters },
		"qos": func() { l.QoS = from.QoS }, "size": func() { l.Size = from.Size }, "rate": func() { l.Rate = from.Rate },
		"batch": func() { l.Batch = from.Batch }, "window": func() { l.Window = from.Window },
		"inflight": func() { l.Inflight = from.Inflight }, "persistent": func() { l.Persistent = from.Persistent },
		"connections": func() { l.Connections = from.Connections }, "concurrency": func() { l.Concurrency = from.Concurrency },
		"duration": func() { l.Duration = from.Duration }, "warmup": func() { l.Warmup = from.Warmup },
		"patience": func() { l.Patience = from.Patience },
	} {
		if cmd.Flags().Changed(name) {
			set()
		}
	}
}

func (f *benchFlags) target(cmd *cobra.Command) (*bench.Target, error) {
	t := &bench.Target{Prefix: f.prefix, UserName: f.user, Password: f.password, PID: f.pid}
	switch f.version {
	case "3.1.1", "311", "mqttv311":
		t.Version = packet.V311
	case "5", "mqttv5":
		t.Version = packet.V5
	default:
		return nil, control.Invalidf("MQTT version %q: want 3.1.1 or 5", f.version)
	}
	if f.prefix == "" || strings.ContainsAny(f.prefix, "+#") {
		return nil, control.Invalidf("--prefix %q: want the beginning of a topic", f.prefix)
	}
	where := f.url
	if where == "" {
		s, err := askNode(cmd, control.GetStatus, control.None{})
		if err != nil {
			return nil, err
		}
		for _, l := range s.Listeners {
			if l.Name == control.ListenerPlain {
				where = "mqtt://" + l.Address
			}
		}
		if where == "" {
			return nil, &control.Error{
				Code: control.Unreachable, Err: errors.New("the node has no plain MQTT listener"),
				Hint: "say where: --url mqtts://localhost:8883 --cafile … --cert … --key …",
			}
		}
		if f.pid == 0 {
			t.PID = s.PID
		}
	}
	var err error
	t.Dial, err = f.dialer(where)
	return t, err
}

// dialer returns how to open a connection to the broker at a URL.
func (f *benchFlags) dialer(where string) (func(context.Context) (net.Conn, error), error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, control.Fail(control.Invalid, "", err)
	}
	address := func(port string) string {
		if u.Port() != "" {
			port = u.Port()
		}
		return net.JoinHostPort(u.Hostname(), port)
	}
	conf := new(tls.Config)
	if f.ca != "" {
		if conf, err = f.tlsConfig(); err != nil {
			return nil, err
		}
	}
	plain := &net.Dialer{Timeout: 10 * time.Second}
	secure := &tls.Dialer{NetDialer: plain, Config: conf}
	switch u.Scheme {
	case "mqtt", "tcp":
		return func(ctx context.Context) (net.Conn, error) { return plain.DialContext(ctx, "tcp", address("1883")) }, nil
	case "mqtts", "ssl", "tls":
		return func(ctx context.Context) (net.Conn, error) { return secure.DialContext(ctx, "tcp", address("8883")) }, nil
	case "unix":
		return func(ctx context.Context) (net.Conn, error) { return plain.DialContext(ctx, "unix", u.Path) }, nil
	case "quic":
		return func(ctx context.Context) (net.Conn, error) { return quic.Dial(ctx, address("14567"), conf) }, nil
	case "ws", "wss":
		return func(ctx context.Context) (net.Conn, error) { return dialWebSocket(ctx, *u, conf) }, nil
	}
	return nil, control.Invalidf("--url %s: want mqtt://, mqtts://, ws://, wss://, quic:// or unix://", where)
}

// dialWebSocket opens MQTT over WebSocket at u, by default at /mqtt.
func dialWebSocket(ctx context.Context, u url.URL, conf *tls.Config) (net.Conn, error) {
	if u.Path == "" {
		u.Path = "/mqtt"
	}
	c, resp, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{
		Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: conf}},
	})
	if resp != nil && resp.Body != nil {
		resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	c.SetReadLimit(-1)
	return websocket.NetConn(context.WithoutCancel(ctx), c, websocket.MessageBinary), nil
}

// runLoads runs one scenario after another and prints each when it is done.
func runLoads(cmd *cobra.Command, t *bench.Target, loads []bench.Load) error {
	asJSON := wantsJSON(cmd)
	out := cmd.OutOrStdout()
	if !asJSON {
		printBenchHeader(out)
	}
	var replies []benchReply
	faulty := 0
	for _, l := range loads {
		r, err := t.Run(cmd.Context(), l)
		if cmd.Context().Err() != nil {
			return cmd.Context().Err()
		}
		if err != nil && len(loads) == 1 || err != nil && len(replies) == 0 && unreachable(err) {
			return benchFailure(err)
		}
		reply := benchReply{Result: r}
		if err != nil {
			reply.Result, reply.Error = &bench.Result{Name: l.Name, Title: l.Title}, err.Error()
		}
		if err != nil || !r.Faultless() {
			faulty++
		}
		replies = append(replies, reply)
		if !asJSON {
			printBench(out, reply)
		} else if err := newEncoder(out).Encode(reply); err != nil {
			return err
		}
	}
	if faulty > 0 {
		hint := "the columns and -o json say which; a limit of the broker (queued, in flight, connections) is the usual reason"
		if slices.ContainsFunc(replies, func(r benchReply) bool { return r.Sent > 0 && r.Delivered == 0 }) {
			hint = "nothing arrived at all: if the broker does not allow these clients to publish there, choose another --prefix TOPIC"
		}
		return &control.Error{
			Code: control.Failed, Hint: hint,
			Err: fmt.Errorf("%d of %d scenarios failed, or lost, repeated or reordered messages", faulty, len(loads)),
		}
	}
	return nil
}

func unreachable(err error) bool {
	_, is := errors.AsType[*net.OpError](err)
	return is
}

// benchFailure chooses the exit code for a scenario that could not run.
func benchFailure(err error) error {
	if refused, ok := errors.AsType[*bench.RefusedError](err); ok {
		// To a subscriber of 3.1.1 a denial is an unspecified error.
		if slices.Contains([]packet.ReasonCode{packet.NotAuthorized, packet.BadUserNameOrPassword, packet.UnspecifiedError}, refused.Code) {
			if refused.What == "CONNECT" {
				return control.Fail(control.Denied, "say who the clients are: --cert and --key, or -u and -P", err)
			}
			return control.Fail(control.Denied, "let the broker allow it, or publish elsewhere: --prefix TOPIC", err)
		}
		return control.Fail(control.Failed, "", err)
	}
	if unreachable(err) {
		return control.Fail(control.Unreachable, "is a broker listening there? see --url", err)
	}
	return control.Fail(control.Failed, "", err)
}

func printLoads(cmd *cobra.Command) error {
	type line struct {
		Name  string `json:"name"`
		Title string `json:"title"`
	}
	all := []line{}
	rows := [][]string{}
	for _, l := range bench.Loads() {
		all = append(all, line{l.Name, l.Title})
		rows = append(rows, []string{l.Name, l.Title})
	}
	return printEntries(cmd, all, func(w io.Writer) { printTable(w, []string{"SCENARIO", "WHAT"}, rows) })
}

const benchColumns = "%-13s %12s %12s %9s %7s %9s %9s  %s\n"

func printBenchHeader(w io.Writer) {
	fmt.Fprintf(w, benchColumns, "SCENARIO", "PER SECOND", "BROKER µs", "SYSTEM µs", "CORES", "P50 µs", "P99 µs", "CHECKED")
}

func printBench(w io.Writer, r benchReply) {
	if r.Error != "" {
		fmt.Fprintf(w, "%-13s %s\n", r.Name, r.Error)
		return
	}
	known := func(format string, v float64) string {
		if r.BrokerMicros == 0 {
			return "-"
		}
		return fmt.Sprintf(format, v)
	}
	fmt.Fprintf(w, benchColumns, r.Name, fmt.Sprintf("%.0f", r.PerSecond), known("%.2f", r.BrokerMicros), known("%.2f", r.BrokerSystemMicros),
		known("%.2f", r.BrokerCores), fmt.Sprintf("%.0f", r.Delay.P50), fmt.Sprintf("%.0f", r.Delay.P99), checked(r.Result))
}

// checked describes the result of the check of every delivery.
func checked(r *bench.Result) string {
	var found []string
	for _, f := range []struct {
		n    uint64
		what string
	}{
		{r.Lost, "lost"},
		{r.Duplicated, "repeated"},
		{r.Reordered, "reordered"},
		{r.Corrupt, "corrupt"},
		{r.Refused, "refused (" + r.Refusal + ")"},
		{r.Unacknowledged, "not acknowledged"},
	} {
		if f.n > 0 {
			found = append(found, fmt.Sprintf("%d %s", f.n, f.what))
		}
	}
	switch {
	case len(found) > 0:
		return strings.Join(found, ", ")
	case r.MemoryPerConnection != 0:
		return fmt.Sprintf("%.1f KiB a connection", r.MemoryPerConnection/1024)
	case r.Connections > 0:
		return fmt.Sprintf("%d connections", r.Connections)
	}
	return fmt.Sprintf("all %d", r.Delivered)
}
