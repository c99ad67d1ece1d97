package control

import (
	"net/http"
	"time"
)

// MaxAwait is the longest that [AwaitRecords] waits.
const MaxAwait = 4 * time.Minute

// AwaitRecords answers after all other nodes have a number of the directory's
// records, or after a time.
var AwaitRecords = Endpoint[AwaitRequest, Recorded]{http.MethodPost, "/v1/records/await"}

// AwaitRequest says for how many records to wait, and for how long.
type AwaitRequest struct {
	Records uint64  `json:"records"`      // that a node shall hold
	Wait    float64 `json:"wait_seconds"` // for the nodes that lack them; 0 is not at all
	Except  string  `json:"except"`       // identity not to wait for
}

// NodeRecords is the state of another node's copy of the directory, as that node
// told it.
type NodeRecords struct {
	Site      string    `json:"site"`
	Node      string    `json:"node"`
	Connected bool      `json:"connected"`
	Records   uint64    `json:"records"` // 0 when it has not been heard since this node started
	Policy    uint64    `json:"policy"`  // version in force there; 0 likewise
	Heard     time.Time `json:"heard,omitzero"`
}

// Recorded says which nodes know a change of the directory. The replies of
// changes embed it.
type Recorded struct {
	Records uint64        `json:"records"` // in the directory, the change among them
	HeldBy  []NodeRecords `json:"held_by"`
	Missing []NodeRecords `json:"missing"` // nodes that are not known to have the change
}
