package access

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/overlay"
)

// Protocol is the overlay protocol of carriers.
const Protocol = "hpmq-access/1"

// maxFrame bounds every frame that a peer sends; identities and reasons fit
// many times.
const maxFrame = 4 << 10

// status is the reply to the opener of a carrier. Of several failures the highest
// says most.
type status byte

const (
	statusOK      status = 0
	statusNotHere status = 1 // no agent of the target is connected
	statusBusy    status = 2
	statusSilent  status = 3 // the agent is connected and did not answer
)

// header opens a carrier on a mesh connection.
type header struct {
	Target identity.ID `json:"target"`
	Hops   int         `json:"hops"`
}

func (h *header) check() error {
	if h.Target.IsZero() {
		return errors.New("no target")
	}
	if h.Hops < 0 || h.Hops > 1 {
		return fmt.Errorf("%d hops", h.Hops)
	}
	return nil
}

// unanswered returns the status that stands for the answer of a peer that got h and
// gave no status.
func (h *header) unanswered(err error) status {
	switch {
	case errors.Is(err, overlay.ErrBusy):
		return statusBusy
	case h.Hops == 0: // it was the agent
		return statusSilent
	}
	return statusNotHere
}

// request is a caller's request to an agent.
type request struct {
	Network string `json:"network"`
	Port    uint16 `json:"port"`
	Host    string `json:"host,omitempty"` // on the device; none is its loopback address
}

var (
	networkPattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)
	hostPattern    = regexp.MustCompile(`^[A-Za-z0-9.:_-]{0,255}$`)
)

func (r *request) check() error {
	if !networkPattern.MatchString(r.Network) {
		return errors.New("malformed network")
	}
	if !hostPattern.MatchString(r.Host) {
		return errors.New("malformed host")
	}
	return nil
}

// code is an agent's answer in one word.
type code string

const (
	codeAllowed   code = "allowed"
	codeDenied    code = "denied"
	codeUnexposed code = "unexposed" // allowed, but the device does not offer the port
	codeUnserved  code = "unserved"  // nothing listens on the port
	codeBusy      code = "busy"
	codeInvalid   code = "invalid" // the request makes no sense to this agent
)

// answer is an agent's reply to a request.
type answer struct {
	Code   code   `json:"code"`
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"` // for people
}

func (a *answer) check() error {
	if a.Code == "" {
		return errors.New("no code")
	}
	return nil
}

// maxText bounds a rule or reason so that both fit a frame however they are
// escaped.
const maxText = 300

func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

// printable makes text from a peer safe for a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// A message is the body of a frame.
type message interface{ check() error }

func writeFrame(w io.Writer, m message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(body) > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d", len(body), maxFrame)
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(body)), uint16(len(body)))
	_, err = w.Write(append(b, body...))
	return err
}

// readFrame reads one frame and not a byte more.
func readFrame(r io.Reader, m message) error {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d", n, maxFrame)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return noEOF(err)
	}
	if err := json.Unmarshal(body, m); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	if err := m.check(); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	return nil
}

// noEOF turns io.EOF in the middle of a message into io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
