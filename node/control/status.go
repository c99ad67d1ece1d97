package control

import (
	"net/http"
	"time"
)

// GetStatus reports what a node is, what it serves and which peers it sees.
var GetStatus = Endpoint[None, Status]{http.MethodGet, "/v1/status"}

// Status is the state of a node.
type Status struct {
	Node        string           `json:"node"`
	ID          string           `json:"id"`
	Site        string           `json:"site"`
	TrustDomain string           `json:"trust_domain"`
	Version     string           `json:"version"`
	PID         int              `json:"pid"`
	Started     time.Time        `json:"started"`
	Certificate time.Time        `json:"certificate_not_after"`
	CA          bool             `json:"ca"`
	Listeners   []Listener       `json:"listeners"`
	Broker      map[string]int64 `json:"broker"`
	Policy      PolicyStatus     `json:"policy"`
	Directory   DirectoryStatus  `json:"directory"`
	Nodes       []NodeRecords    `json:"nodes"` // the other nodes, by what they told this node
	Peers       []Peer           `json:"peers"`
	Links       []Link           `json:"links"`
	Functions   []Function       `json:"functions"`
	Warnings    []string         `json:"warnings"`
}

// The names of a node's listeners.
const (
	ListenerPlain     = "mqtt"
	ListenerUnix      = "unix"
	ListenerTLS       = "mqtts"
	ListenerWebSocket = "wss"
	ListenerQUIC      = "quic"
	ListenerOverlay   = "overlay"
	ListenerHTTP      = "http"
)

// Listener is an address that a node serves.
type Listener struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Note    string `json:"note"`
}

// PolicyStatus is the policy in force on a node.
type PolicyStatus struct {
	Version uint64    `json:"version"`
	Since   time.Time `json:"since"`
	Grants  int       `json:"grants"`
	Tests   int       `json:"tests"`
	Error   string    `json:"error,omitempty"` // why the newest files are not in force
}

// DirectoryStatus is a node's copy of the directory.
type DirectoryStatus struct {
	Records uint64    `json:"records"`
	Signed  time.Time `json:"head_signed"`
	Writer  bool      `json:"writer"`
}

// Peer is another node that this one has a connection with.
type Peer struct {
	ID      string    `json:"id"`
	Remote  string    `json:"remote"`
	Since   time.Time `json:"since"`
	RTT     float64   `json:"rtt_seconds"`
	Gossip  string    `json:"gossip,omitempty"` // serf's view: alive, failed, left
	Site    string    `json:"site,omitempty"`
	Streams int       `json:"streams"`
}

// Link is the exchange of messages with another site.
type Link struct {
	Site     string    `json:"site"`
	Peer     string    `json:"peer"`  // the node that carries the link
	State    string    `json:"state"` // up, or down and why
	Since    time.Time `json:"since"`
	Heard    bool      `json:"heard"` // interest is known; else everything is kept
	Interest int       `json:"interest"`
	Queued   int       `json:"queued"`
	Sent     uint64    `json:"sent"`
	Received uint64    `json:"received"`
	Dropped  uint64    `json:"dropped"`
	Withheld uint64    `json:"withheld"` // messages that the site may not receive
	Missing  uint64    `json:"missing"`  // dropped over there, for us

	Nodes []NodeRecords `json:"nodes"`
}

// ListFunctions lists a node's functions.
var ListFunctions = List[None, Function]{"/v1/functions/list"}

// AddFunction gives a module to the fabric, or a new version of it.
var AddFunction = Endpoint[FunctionRequest, Function]{http.MethodPost, "/v1/functions"}

// FunctionRequest is a WebAssembly module and the name of its function.
type FunctionRequest struct {
	Name   string `json:"name"`
	Module []byte `json:"module"`
}

// Function is a function of the fabric, and its calls on this node.
type Function struct {
	Name     string   `json:"name"`
	SHA256   string   `json:"sha256"`
	Size     int64    `json:"size"`
	Bindings []string `json:"bindings"`
	Calls    uint64   `json:"calls"`
	Errors   uint64   `json:"errors"`
	Loaded   bool     `json:"loaded"`
	Error    string   `json:"error,omitempty"`
}
