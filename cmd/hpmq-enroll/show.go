package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// summary is what a directory holds, in the form of -o json.
type summary struct {
	ID       identity.ID `json:"id"`
	Site     string      `json:"site"`
	CA       string      `json:"ca"`
	Cert     string      `json:"cert"`
	Key      string      `json:"key"`
	CRL      string      `json:"crl,omitempty"` // if it was fetched
	MQTT     []string    `json:"mqtt"`
	Mesh     []string    `json:"mesh"`
	NotAfter time.Time   `json:"not_after"`
	Topic    string      `json:"topic"` // one that the default policy lets it publish

	renewAt time.Time
}

// summarize describes the identity of a store that holds one.
func summarize(s *identity.Store) (*summary, error) {
	svid := s.SVID()
	sum := &summary{
		ID:       svid.ID,
		CA:       filepath.Join(s.Dir(), identity.RootsFile),
		Cert:     filepath.Join(s.Dir(), identity.CertFile),
		Key:      filepath.Join(s.Dir(), identity.KeyFile),
		MQTT:     []string{},
		Mesh:     []string{},
		NotAfter: svid.NotAfter().UTC(),
		renewAt:  identity.RenewAt(svid),
	}
	if crl := filepath.Join(s.Dir(), identity.CRLFile); isFile(crl) {
		sum.CRL = crl
	}
	record, err := s.Enrolment()
	if err != nil || record == nil {
		return sum, err
	}
	sum.Site = record.Site
	known := record.Known()
	sum.MQTT = append(sum.MQTT, known.MQTT...)
	sum.Mesh = append(sum.Mesh, known.Mesh...)
	sum.Topic = "site/" + record.Site + "/" + svid.ID.Name + "/raw"
	return sum, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// show prints what a directory holds.
func (c *command) show() error {
	s, err := c.open()
	if err != nil {
		return err
	}
	sum, err := summarize(s)
	if err != nil {
		return err
	}
	if c.json {
		return sum.printJSON(c.stdout)
	}
	left := time.Until(sum.NotAfter)
	state := fmt.Sprintf("%s left", left.Round(time.Minute))
	if left <= 0 {
		state = "EXPIRED; try: hpmq-enroll renew --out " + quote(s.Dir())
	}
	_, err = fmt.Fprintf(c.stdout, "identity   %s\nsite       %s\nvalid      until %s (%s)\nrenewal    due on %s\nfiles      %s\nmqtt       %s\nmesh       %s\ntry        %s\n",
		sum.ID, sum.Site, stamp(sum.NotAfter), state, stamp(sum.renewAt),
		strings.TrimSpace(strings.Join([]string{sum.CA, sum.Cert, sum.Key, sum.CRL}, " ")), strings.Join(sum.MQTT, " "), strings.Join(sum.Mesh, " "), sum.tryLine())
	return err
}

func (s *summary) printJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(s)
}

// tryLine is a whole command to paste: a stock client that uses the identity.
func (s *summary) tryLine() string {
	host, port := "localhost", "8883"
	if len(s.MQTT) > 0 {
		if h, p, err := net.SplitHostPort(s.MQTT[0]); err == nil {
			host, port = h, p
		}
	}
	words := []string{"mosquitto_pub", "-h", host, "-p", port, "--cafile", s.CA, "--cert", s.Cert, "--key", s.Key}
	if s.ID.Kind == identity.User {
		words[0] = "mosquitto_sub"
		words = append(words, "-v", "-t", "site/#")
	} else {
		words = append(words, "-t", s.Topic, "-m", "hello")
	}
	for i, word := range words {
		words[i] = quote(word)
	}
	return strings.Join(words, " ")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quote makes one word of a shell command line.
func quote(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
