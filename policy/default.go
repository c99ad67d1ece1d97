package policy

import (
	"bytes"
	_ "embed"
)

//go:embed default.hcl
var defaultPolicy []byte

// Default returns the policy that a first start writes as main.hcl.
func Default() []byte { return bytes.Clone(defaultPolicy) }
