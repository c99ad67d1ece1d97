package slice

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/hpmq/hpmq/identity"
)

// Bounds on a signed slice.
const (
	MaxBytes   = 4 << 20 // of the signed form
	maxRules   = 10_000
	maxCallers = 100_000 // of all rules together
	maxPorts   = 10_000  // likewise
	maxCite    = 512
	maxChain   = 6
)

// wireSlice is the signed payload. Identities are kind:name inside one trust
// domain.
type wireSlice struct {
	TrustDomain string     `cbor:"1,keyasint"`
	Target      string     `cbor:"2,keyasint"`
	Version     uint64     `cbor:"3,keyasint"`
	Issued      int64      `cbor:"4,keyasint"` // Unix milliseconds
	Rules       []wireRule `cbor:"5,keyasint"`
}

type wireRule struct {
	_       struct{} `cbor:",toarray"`
	Cite    string
	Deny    bool
	Callers []string
	Ports   []wirePorts
}

type wirePorts struct {
	_           struct{} `cbor:",toarray"`
	Network     string
	First, Last uint16
}

// wireSigned is what travels and is kept on disk.
type wireSigned struct {
	Payload   []byte   `cbor:"1,keyasint"`
	Chain     [][]byte `cbor:"2,keyasint"` // DER, leaf first
	Signature []byte   `cbor:"3,keyasint"` // ASN.1 ECDSA
}

var (
	encoder = mode(cbor.CoreDetEncOptions().EncMode())
	decoder = mode(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, MaxNestedLevels: 8, MaxArrayElements: 131072, MaxMapPairs: 16,
	}.DecMode())
)

// mode unwraps a codec made from constants: an error is a bug in this file.
func mode[M any](m M, err error) M {
	if err != nil {
		panic(err)
	}
	return m
}

var errNotCanonical = errors.New("not in canonical form")

// encode returns the canonical payload.
func (s *Slice) encode() ([]byte, error) {
	w := wireSlice{TrustDomain: s.Target.TrustDomain, Target: s.Target.Short(), Version: s.Version, Issued: s.Issued.UnixMilli(), Rules: []wireRule{}}
	for _, r := range s.Rules {
		wr := wireRule{Cite: r.Cite, Deny: r.Deny, Callers: []string{}, Ports: []wirePorts{}}
		for _, c := range r.Callers {
			if c.TrustDomain != s.Target.TrustDomain {
				return nil, fmt.Errorf("caller %s is of another trust domain than %s", c, s.Target)
			}
			wr.Callers = append(wr.Callers, c.Short())
		}
		for _, p := range r.Ports {
			wr.Ports = append(wr.Ports, wirePorts{Network: p.Network, First: p.First, Last: p.Last})
		}
		w.Rules = append(w.Rules, wr)
	}
	return encoder.Marshal(w)
}

// decode reads a canonical payload and indexes it.
func decode(b []byte) (*Slice, error) {
	var w wireSlice
	if err := decoder.Unmarshal(b, &w); err != nil {
		return nil, err
	}
	target, err := parseShort(w.TrustDomain, w.Target)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	if len(w.Rules) > maxRules {
		return nil, fmt.Errorf("%d rules, at most %d", len(w.Rules), maxRules)
	}
	var rules []Rule
	callers, ports := 0, 0
	for _, wr := range w.Rules {
		callers, ports = callers+len(wr.Callers), ports+len(wr.Ports)
		if callers > maxCallers || ports > maxPorts || len(wr.Cite) > maxCite {
			return nil, errors.New("too many callers or ports")
		}
		r, err := wr.rule(w.TrustDomain)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	s := New(target, rules)
	s.Version, s.Issued = w.Version, time.UnixMilli(w.Issued).UTC()
	if again, err := s.encode(); err != nil || !bytes.Equal(again, b) {
		return nil, errNotCanonical
	}
	return s, nil
}

func (wr *wireRule) rule(domain string) (Rule, error) {
	r := Rule{Cite: wr.Cite, Deny: wr.Deny}
	for _, c := range wr.Callers {
		id, err := parseShort(domain, c)
		if err != nil {
			return r, fmt.Errorf("caller: %w", err)
		}
		r.Callers = append(r.Callers, id)
	}
	for _, p := range wr.Ports {
		if p.Network != "tcp" && p.Network != "udp" || p.First > p.Last {
			return r, fmt.Errorf("ports %q %d-%d are malformed", p.Network, p.First, p.Last)
		}
		r.Ports = append(r.Ports, PortRange{Network: p.Network, First: p.First, Last: p.Last})
	}
	return r, nil
}

// parseShort reads kind:name and nothing else that identity.ParseShort would
// accept.
func parseShort(domain, s string) (identity.ID, error) {
	id, err := identity.ParseShort(domain, s)
	if err == nil && id.Short() != s {
		err = errNotCanonical
	}
	return id, err
}
