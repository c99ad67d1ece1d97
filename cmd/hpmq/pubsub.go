package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/eclipse/paho.golang/paho"
	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/internal/exit"
	"github.com/hpmq/hpmq/node/control"
)

// exitTimeout is the exit code of sub -W, which mosquitto_sub has too.
const exitTimeout = 27

func newPubCommand() *cobra.Command {
	pub := &cobra.Command{
		Use:   "pub -t TOPIC -m MESSAGE",
		Short: "Publish, with mosquitto_pub's flags; waits for the broker's answer",
		Example: `  hpmq pub -t site/home/note -m hello
  hpmq pub -t site/home/photo -f photo.jpg -r
  sensors -j | hpmq pub -t site/home/pc/sensors -s
  tail -f log | hpmq pub -t site/home/pc/log -l`,
		Args: cobra.NoArgs,
	}
	f := addMQTTFlags(pub)
	var src payloadSource
	pub.Flags().StringVarP(&src.message, "message", "m", "", "`payload`")
	pub.Flags().StringVarP(&src.file, "file", "f", "", "`file` whose content is the payload")
	pub.Flags().BoolVarP(&src.stdin, "stdin-file", "s", false, "all of standard input is the payload")
	pub.Flags().BoolVarP(&src.lines, "stdin-line", "l", false, "each line of standard input is a payload")
	pub.Flags().BoolVarP(&src.null, "null-message", "n", false, "an empty payload; with -r it clears a retained message")
	retain := pub.Flags().BoolP("retain", "r", false, "ask the broker to keep the message for later subscribers")
	pub.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		if len(f.topics) != 1 {
			return control.Invalidf("publish to one topic at a time")
		}
		payloads, err := src.open(cmd)
		if err != nil {
			return err
		}
		s, err := f.connect(cmd, nil)
		if err != nil {
			return err
		}
		defer s.close()
		for {
			payload, err := payloads()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return control.Fail(control.Invalid, "", err)
			}
			if err := s.publish(cmd, f, payload, *retain); err != nil {
				return err
			}
		}
	}
	return pub
}

func (s *mqttSession) publish(cmd *cobra.Command, f *mqttFlags, payload []byte, retain bool) error {
	resp, err := s.client.Publish(cmd.Context(), &paho.Publish{
		Topic: f.topics[0], QoS: byte(f.qos), Retain: retain, Payload: payload,
	})
	if resp != nil && resp.ReasonCode >= 0x80 {
		var reason string
		if resp.Properties != nil {
			reason = resp.Properties.ReasonString
		}
		return refusedByBroker("publish "+f.topics[0], resp.ReasonCode, reason)
	}
	if err == nil {
		return nil
	}
	select {
	case lost := <-s.lost:
		return lost
	default:
		return control.Fail(control.Unreachable, "", err)
	}
}

// payloadSource is where pub takes its payloads from; exactly one field is set.
type payloadSource struct {
	message, file      string
	stdin, lines, null bool
}

// open returns a function that yields the payloads one by one, then io.EOF.
func (p payloadSource) open(cmd *cobra.Command) (func() ([]byte, error), error) {
	chosen := 0
	for _, set := range []bool{cmd.Flags().Changed("message"), p.file != "", p.stdin, p.lines, p.null} {
		if set {
			chosen++
		}
	}
	if chosen != 1 {
		return nil, control.Invalidf("which payload? give one of -m, -f, -s, -l and -n")
	}
	if p.lines {
		scan := bufio.NewScanner(cmd.InOrStdin())
		scan.Buffer(nil, 16<<20)
		return func() ([]byte, error) {
			if scan.Scan() {
				return scan.Bytes(), nil
			}
			return nil, cmp.Or(scan.Err(), io.EOF)
		}, nil
	}
	var payload []byte
	var err error
	switch {
	case p.file != "":
		payload, err = os.ReadFile(p.file)
	case p.stdin:
		payload, err = io.ReadAll(cmd.InOrStdin())
	default:
		payload = []byte(p.message)
	}
	if err != nil {
		return nil, control.Fail(control.Invalid, "", err)
	}
	sent := false
	return func() ([]byte, error) {
		if sent {
			return nil, io.EOF
		}
		sent = true
		return payload, nil
	}, nil
}

func newSubCommand() *cobra.Command {
	sub := &cobra.Command{
		Use:   "sub -t FILTER",
		Short: "Subscribe and print what arrives, with mosquitto_sub's flags",
		Example: `  hpmq sub -t 'site/#'
  hpmq sub -t 'site/+/+/telemetry' -v -C 10
  hpmq sub -t 'site/#' -o json`,
		Args: cobra.NoArgs,
	}
	f := addMQTTFlags(sub)
	sub.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "print the topic before the payload")
	count := sub.Flags().IntP("count", "C", 0, "end after this many messages")
	wait := sub.Flags().IntP("wait", "W", 0, "end after this many `seconds`")
	noRetained := sub.Flags().BoolP("no-retained", "R", false, "leave out retained messages")
	addFormatFlag(sub, "text")
	sub.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(cmd.Context())
		defer cancel()
		messages := make(chan *paho.Publish) // never closed: the sender gives up with ctx
		s, err := f.connect(cmd, func(p *paho.Publish) {
			select {
			case messages <- p:
			case <-ctx.Done():
			}
		})
		if err != nil {
			return err
		}
		defer func() {
			cancel() // first: close waits for the callback
			s.close()
		}()
		if err := s.subscribe(cmd, f); err != nil {
			return err
		}
		var timeout <-chan time.Time
		if *wait > 0 {
			timeout = time.After(time.Duration(*wait) * time.Second)
		}
		for seen := 0; ; {
			select {
			case p := <-messages:
				if p.Retain && *noRetained {
					continue
				}
				if err := printMessage(cmd.OutOrStdout(), p, f.verbose, wantsJSON(cmd)); err != nil {
					return err
				}
				if seen++; seen == *count {
					return nil
				}
			case err := <-s.lost:
				return err
			case <-timeout:
				return exit.Status(exitTimeout)
			case <-ctx.Done():
				return nil
			}
		}
	}
	return sub
}

func (s *mqttSession) subscribe(cmd *cobra.Command, f *mqttFlags) error {
	q := &paho.Subscribe{}
	for _, t := range f.topics {
		q.Subscriptions = append(q.Subscriptions, paho.SubscribeOptions{Topic: t, QoS: byte(f.qos)})
	}
	ack, err := s.client.Subscribe(cmd.Context(), q)
	if ack != nil {
		for i, code := range ack.Reasons {
			if code < 0x80 {
				continue
			}
			var reason string
			if ack.Properties != nil {
				reason = ack.Properties.ReasonString
			}
			return refusedByBroker("subscribe "+f.topics[min(i, len(f.topics)-1)], code, reason)
		}
	}
	if err != nil {
		return control.Fail(control.Unreachable, "", err)
	}
	return nil
}

func printMessage(w io.Writer, p *paho.Publish, verbose, asJSON bool) error {
	if asJSON {
		line := map[string]any{"topic": p.Topic, "qos": p.QoS, "retain": p.Retain}
		if utf8.Valid(p.Payload) {
			line["payload"] = string(p.Payload)
		} else {
			line["payload_base64"] = p.Payload
		}
		return json.NewEncoder(w).Encode(line)
	}
	var b strings.Builder
	if verbose {
		b.WriteString(p.Topic + " ")
	}
	b.Write(p.Payload)
	_, err := fmt.Fprintln(w, b.String())
	return err
}
