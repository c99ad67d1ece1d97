package password

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strings"

	"golang.org/x/crypto/argon2"
)

// cost is the memory and time that one argon2id hash takes.
type cost struct {
	memory uint32 // KiB
	passes uint32
	lanes  uint8
}

// defaultCost is that of new hashes: the memory and passes of RFC 9106's second
// recommendation, in one lane, so that one hash is computed on one core and the
// number under way bounds the cores that logins can take.
var defaultCost = cost{memory: 64 << 10, passes: 3, lanes: 1}

// Bounds on the cost of a hash in a file, since another program may have written it.
const (
	maxMemory = 256 << 10 // KiB
	maxPasses = 16
	maxLanes  = 16
	maxSalt   = 64
	maxKey    = 64
)

const (
	saltBytes = 16
	keyBytes  = 32
)

// hash is a password's, as the PHC string format writes it.
type hash struct {
	cost
	salt, key []byte
}

func newHash(password []byte, c cost) hash {
	h := hash{cost: c, salt: make([]byte, saltBytes)}
	_, _ = rand.Read(h.salt) // never fails (crypto/rand)
	h.key = h.compute(password, keyBytes)
	return h
}

func (h hash) compute(password []byte, size int) []byte {
	return argon2.IDKey(password, h.salt, h.passes, h.memory, h.lanes, uint32(size))
}

// matches reports whether password is the one behind h. It takes the same time
// for either answer.
func (h hash) matches(password []byte) bool {
	return subtle.ConstantTimeCompare(h.compute(password, len(h.key)), h.key) == 1
}

func (h hash) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.passes, h.lanes,
		base64.RawStdEncoding.EncodeToString(h.salt), base64.RawStdEncoding.EncodeToString(h.key))
}

var errHash = errors.New("not a hash of the form $argon2id$v=19$m=…,t=…,p=…$salt$key")

// parseHash reads the text of String, or of another program in the same format.
func parseHash(s string) (hash, error) {
	part := strings.Split(s, "$")
	if len(part) != 6 || part[0] != "" || part[1] != "argon2id" || part[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return hash{}, errHash
	}
	var h hash
	var memory, passes, lanes uint64
	var err error
	if _, err := fmt.Sscanf(part[3], "m=%d,t=%d,p=%d", &memory, &passes, &lanes); err != nil ||
		part[3] != fmt.Sprintf("m=%d,t=%d,p=%d", memory, passes, lanes) {
		return hash{}, errHash
	}
	if memory < 8*max(lanes, 1) || memory > maxMemory || passes < 1 || passes > maxPasses || lanes < 1 || lanes > min(maxLanes, math.MaxUint8) {
		return hash{}, fmt.Errorf("hash with a cost of %s: at most %d KiB, %d passes and %d lanes", part[3], maxMemory, maxPasses, maxLanes)
	}
	h.cost = cost{uint32(memory), uint32(passes), uint8(lanes)}
	if h.salt, err = base64.RawStdEncoding.Strict().DecodeString(part[4]); err != nil || len(h.salt) < 8 || len(h.salt) > maxSalt {
		return hash{}, errHash
	}
	if h.key, err = base64.RawStdEncoding.Strict().DecodeString(part[5]); err != nil || len(h.key) < 16 || len(h.key) > maxKey {
		return hash{}, errHash
	}
	return h, nil
}
