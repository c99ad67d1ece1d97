// Hpmq-enroll gives a device its identity: it trades a ticket for a certificate
// whose key is made on the device, renews it, and shows it. Any MQTT client can
// then use the files. It decides nothing; what the identity may do is the
// policy's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hpmq/hpmq/internal/exit"
)

// version is set by the linker; see the Makefile.
var version = "0.1.0-dev"

const usage = `Give this device an identity in an HPMQ fabric.

  hpmq-enroll [--out DIR] [-o json] TICKET   enrol: make a key here, get its certificate
  hpmq-enroll renew [--out DIR] [--force]    renew the certificate if it is due, and fetch
                                             crl.pem (run it daily)
  hpmq-enroll show [--out DIR] [-o json]     what DIR holds and until when
  hpmq-enroll version

A ticket is one word, "hpmq1.…", that an operator makes with
"hpmq enroll ticket --name pump-7". "-" reads it from standard input, which
keeps it out of the process list.

Flags:
  --out DIR       where key.pem, cert.pem, ca.pem and crl.pem are kept; by default
                  ./NAME when enrolling, else the current directory
  -o json         print one JSON object
  --force         renew even if it is not due
  --timeout DUR   how long to go on trying (default 1m)

crl.pem names the certificates that were revoked before their end, for TLS clients
that can read such a list; mosquitto_pub and mosquitto_sub cannot. It lasts 29 days,
then these clients refuse every server until a newer one is there:
  curl --cacert ca.pem --crlfile crl.pem https://HOST:8883/
  openssl s_client -connect HOST:8883 -CAfile ca.pem -CRL crl.pem -crl_check

Examples:
  hpmq-enroll hpmq1.rQF4GjAx…
  ssh paris hpmq enroll ticket --name pump-7 | hpmq-enroll --out /etc/pump-7 -
  hpmq-enroll renew --out /etc/pump-7
  hpmq-enroll show --out /etc/pump-7 -o json

Exit codes: 0 ok, 1 failure, 2 usage, 3 cannot reach, 4 denied, 5 not found,
6 conflict.
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return exit.OK
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, cmd.timeout)
		defer cancel()
		cmd.stdin, cmd.stdout, cmd.stderr = stdin, stdout, stderr
		err = cmd.do(ctx)
	}
	return exit.Report(stderr, "hpmq-enroll", judge(err), cmd != nil && cmd.json)
}

// command is one command line, understood.
type command struct {
	name    string // enrol, renew, show or version
	ticket  string // enrol only
	dir     string // "" is the default
	json    bool
	force   bool
	timeout time.Duration

	stdin          io.Reader
	stdout, stderr io.Writer
}

// parse reads a command line, in which flags and words may come in any order.
func parse(args []string) (*command, error) {
	c := &command{name: "enrol"}
	output := "text"
	flags := flag.NewFlagSet("hpmq-enroll", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.dir, "out", "", "")
	flags.StringVar(&output, "o", output, "")
	flags.BoolVar(&c.force, "force", false, "")
	flags.DurationVar(&c.timeout, "timeout", time.Minute, "")
	var words []string
	for rest := args; ; {
		if err := flags.Parse(rest); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, usagef("%w", err)
		}
		if flags.NArg() == 0 {
			break
		}
		words, rest = append(words, flags.Arg(0)), flags.Args()[1:]
	}
	switch output {
	case "json":
		c.json = true
	case "text":
	default:
		return nil, usagef("-o %s: want json or text", output)
	}
	return c, c.take(words)
}

// take finds the command and its argument among the words that are no flags.
func (c *command) take(words []string) error {
	if len(words) == 0 {
		return usagef("no ticket given")
	}
	switch words[0] {
	case "help":
		return flag.ErrHelp
	case "renew", "show", "version":
		c.name = words[0]
	default:
		c.ticket = words[0]
	}
	if len(words) > 1 {
		return usagef("%q: one ticket or command at a time; quote a ticket that has spaces in it", words[1])
	}
	if c.force && c.name != "renew" {
		return usagef("--force goes with renew")
	}
	return nil
}

func (c *command) do(ctx context.Context) error {
	switch c.name {
	case "renew":
		return c.renew(ctx)
	case "show":
		return c.show()
	case "version":
		_, err := fmt.Fprintln(c.stdout, "hpmq-enroll", version)
		return err
	}
	return c.enrol(ctx)
}
