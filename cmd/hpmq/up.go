package main

import (
	"context"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/node"
	"github.com/hpmq/hpmq/node/control"
)

func newUpCommand() *cobra.Command {
	up := &cobra.Command{
		Use:   "up",
		Short: "Run a node: certificate authority, broker, functions, mesh",
		Long: `Run a node: certificate authority, broker, functions, mesh.
The first one in an empty data directory makes a new fabric: a certificate
authority, this node's identity, an admin and a policy to start from. With
--join it becomes one more site of an existing fabric instead.`,
		Example: `  hpmq up
  hpmq up --site lyon --join hpmq1.…                              # on another machine
  hpmq up --site lyon --join hpmq1.… --data lyon --ports +100     # beside another node`,
		Args: cobra.NoArgs,
	}
	o := node.Options{Version: version}
	up.Flags().StringVar(&o.Site, "site", "", "`name` of the place (default home, or what the ticket says)")
	up.Flags().StringVar(&o.Join, "join", "", "site `ticket` from hpmq site invite")
	up.Flags().Var(portsValue{&o.Shift}, "ports", "shift every port, as +100")
	up.Flags().StringVar(&o.Advertise, "advertise", "", "`host` that devices and other sites reach this node by (default: the address of the default route)")
	up.Flags().StringVar(&o.TrustDomain, "trust-domain", "", "`domain` of a new fabric (default: made up)")
	up.Flags().Var(limitsValue{&o.Limits}, "limit", "change a limit of the broker, as publish-messages=200; docs/broker.md lists them")
	up.Flags().StringArrayVar(&o.Origins, "ws-origin", nil, "web `origin` whose pages may use MQTT over WebSocket, as https://console.example.org; may be repeated")
	up.Flags().Var(proxiesValue{&o.Proxies}, "proxy", "proxies in front of mqtts or wss that send PROXY headers (version 2), as mqtts=10.0.0.5; may be repeated")
	up.Flags().StringVar(&o.ServerReference, "server-reference", "", "other `servers` for MQTT 5 clients when this node goes down or is full, as HOST:PORT; several with spaces")
	up.Flags().DurationVar(&o.OfflineMax, "offline-max", node.DefaultOfflineMax, "how long `after` a CA was last heard of to serve peers whose certificates have ended since; 0 serves none")
	up.Flags().DurationVar(&o.Lifetimes.Device, "device-lifetime", identity.DeviceLifetime, "how long a device's `certificate` lasts, on a CA node; minutes are for labs")
	up.Flags().DurationVar(&o.Lifetimes.Node, "node-lifetime", identity.NodeLifetime, "how long a node's `certificate` lasts, on a CA node; minutes are for labs")
	up.Flags().DurationVar(&o.Lifetimes.User, "user-lifetime", identity.UserLifetime, "how long a user's `certificate` lasts, on a CA node")
	up.Flags().DurationVar(&o.Grace, "renewal-grace", authority.DefaultGrace, "how long `after` its end a CA node renews a certificate, with its own key")
	logLevel := up.Flags().String("log", "info", "`level`: error, warn, info or debug")
	up.RunE = func(cmd *cobra.Command, _ []string) error {
		level, err := logrus.ParseLevel(*logLevel)
		if err != nil {
			return control.Fail(control.Invalid, "", err)
		}
		if o.DataDir = givenDataDir(cmd); o.DataDir == "" {
			o.DataDir = defaultDataDir()
		}
		if o.OfflineMax == 0 {
			o.OfflineMax = node.Never
		}
		return runNode(cmd.Context(), o, cmd.OutOrStdout(), newLog(cmd.ErrOrStderr(), level))
	}
	return up
}

// newLog logs lines that people read on a terminal and JSON elsewhere.
func newLog(w io.Writer, level logrus.Level) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(w)
	log.SetLevel(level)
	if terminal(w) {
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: time.TimeOnly})
	} else {
		log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	}
	return log
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// libraryLog logs the lines that libraries print through the standard logger, such
// as quic-go's remark on UDP buffer sizes. They only help in a search for a fault.
type libraryLog struct{ log logrus.FieldLogger }

func (l libraryLog) Write(line []byte) (int, error) {
	l.log.WithField("says", strings.TrimSpace(string(line))).Debug("library log")
	return len(line), nil
}

// runNode starts a node, prints what it serves, and runs it until ctx is done.
func runNode(ctx context.Context, o node.Options, out io.Writer, log *logrus.Logger) error {
	began := time.Now()
	stdlog.SetFlags(0)
	stdlog.SetOutput(libraryLog{log})
	o.Log = log
	n, err := node.New(ctx, o)
	if err != nil {
		return err
	}
	defer n.Close()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	var reloading sync.WaitGroup
	reloading.Go(func() {
		for range hangup {
			n.ReloadPolicy()
		}
	})
	defer reloading.Wait()
	defer close(hangup)
	defer signal.Stop(hangup)
	return n.Run(ctx, func() { printBanner(out, n, time.Since(began)) })
}

func printBanner(w io.Writer, n *node.Node, took time.Duration) {
	s, dir := n.Status(), n.DataDir()
	fmt.Fprintf(w, "hpmq %s  site %q  node %s", version, s.Site, s.Node)
	if n.Fresh() {
		fmt.Fprintf(w, "  (new in %s)", dir)
	}
	fmt.Fprintln(w)
	printListeners(w, s.Listeners)
	data := ""
	if dir != defaultDataDir() {
		data = " --data " + dir
	}
	if s.CA {
		fmt.Fprintf(w, "try:     hpmq sub -t 'demo/#'%s &   hpmq pub -t demo/hi -m hello%s\n", data, data)
		fmt.Fprintf(w, "devices: hpmq enroll ticket --name pump-7 --role sensor%s\n", data)
		fmt.Fprintf(w, "sites:   hpmq site invite lyon%s\n", data)
		fmt.Fprintf(w, "policy:  %s, applied when you save it\n", filepath.Join(node.PolicyDir(dir), "main.hcl"))
	} else {
		fmt.Fprintf(w, "try:     hpmq status%s   hpmq sub -t 'site/#'%s\n", data, data)
	}
	fmt.Fprintf(w, "ready in %.2f s; Ctrl-C stops\n", took.Seconds())
}
