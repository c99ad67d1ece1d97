package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/node"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/overlay/access"
)

func newForwardCommand() *cobra.Command {
	forward := &cobra.Command{
		Use:   "forward DEVICE:PORT",
		Short: "Make a device's port a port of this machine",
		Long: `Make a device's port a port of this machine.
Each connection is TLS from here to the device, with your identity (user:admin
on a fabric's first node, else the one of hpmq login) at this end: no node on
the way can read it or speak in your name, and the device decides by policy.`,
		Example: `  hpmq forward pump-7:8080                            then: curl http://127.0.0.1:8080
  hpmq forward pump-7:22 --listen 127.0.0.1:2222      then: ssh -p 2222 root@127.0.0.1`,
		Args: cobra.ExactArgs(1),
	}
	listen := forward.Flags().String("listen", "", "local `address` (default 127.0.0.1 and the device's port)")
	forward.RunE = func(cmd *cobra.Command, args []string) error {
		name, port, err := splitTarget(args[0])
		if err != nil {
			return err
		}
		c, err := dialControl(cmd)
		if err != nil {
			return err
		}
		me, err := operator(c.Dir())
		if err != nil {
			return err
		}
		target, err := identity.ParseShort(me.SVID().ID.TrustDomain, name)
		if err != nil {
			return control.Fail(control.Invalid, "", err)
		}
		dial := func(ctx context.Context) (net.Conn, error) {
			if err := me.Reload(); err != nil { // the node renews it
				return nil, err
			}
			carrier, err := c.Access(ctx, target.Short())
			if err != nil {
				return nil, err
			}
			return access.Dial(ctx, carrier, me, target, "tcp", port)
		}
		return runForward(cmd, dial, target, port, *listen)
	}
	return forward
}

// runForward tries once, so that a refusal shows at once and not at the first
// browser, then serves local connections.
func runForward(cmd *cobra.Command, dial func(context.Context) (net.Conn, error), target identity.ID, port uint16, listen string) error {
	first, err := dial(cmd.Context())
	if err != nil {
		return forwardFailure(err, target, port)
	}
	first.Close()
	if listen == "" {
		listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return control.Fail(control.Failed, "choose another local port: --listen 127.0.0.1:0", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "forwarding %s to %s port %d; Ctrl-C stops\n", l.Addr(), target.Short(), port)
	log := newLog(cmd.ErrOrStderr(), logrus.InfoLevel)
	log.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true})
	return access.Forward(cmd.Context(), l, dial, log)
}

func forwardFailure(err error, target identity.ID, port uint16) error {
	if _, denied := errors.AsType[*access.Denied](err); denied {
		return control.Fail(control.Denied, fmt.Sprintf("ask the policy: hpmq why WHO connect %s:%d", target.Name, port), err)
	}
	return control.Fail(control.Unreachable, "", err)
}

func splitTarget(s string) (name string, port uint16, err error) {
	i := strings.LastIndexByte(s, ':')
	if i <= 0 {
		return "", 0, control.Invalidf("%q: want DEVICE:PORT, as pump-7:8080", s)
	}
	p, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || p == 0 {
		return "", 0, control.Invalidf("%q: the port must be 1 to 65535", s)
	}
	return s[:i], uint16(p), nil
}

// operator is the identity that this data directory's user proves.
func operator(dir string) (*identity.Store, error) {
	store, err := identity.OpenStore(node.UserDir(dir))
	if err != nil {
		return nil, err
	}
	if store.SVID() == nil {
		return nil, &control.Error{
			Code: control.Denied, Err: fmt.Errorf("nobody is logged in at %s", dir),
			Hint: "on the fabric's CA node: hpmq user add NAME; here: hpmq login TICKET",
		}
	}
	if time.Now().After(store.SVID().NotAfter()) {
		return nil, &control.Error{
			Code: control.Denied, Err: fmt.Errorf("the certificate of %s has expired", store.SVID().ID.Short()),
			Hint: "log in again: hpmq login with a ticket from hpmq user add " + store.SVID().ID.Name + " on the fabric's CA node",
		}
	}
	return store, nil
}
