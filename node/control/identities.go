package control

import (
	"net/http"
	"time"
)

// ListIdentities lists every identity of the fabric.
var ListIdentities = List[None, Identity]{"/v1/identities/list"}

// Identity is an identity of the fabric.
type Identity struct {
	ID         string            `json:"id"`
	Site       string            `json:"site"`
	Labels     map[string]string `json:"labels,omitempty"`
	State      string            `json:"state"`
	Generation uint64            `json:"generation"`
	NotAfter   time.Time         `json:"not_after"`
	Sessions   int               `json:"sessions"` // MQTT sessions on this node
	Agent      bool              `json:"agent"`    // an agent is connected to this node
}

// MintTicket makes a ticket for one identity.
var MintTicket = Endpoint[TicketRequest, Ticket]{http.MethodPost, "/v1/tickets"}

// TicketRequest names the identity that a ticket is for.
type TicketRequest struct {
	Kind   string            `json:"kind"`
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Site   string            `json:"site,omitempty"`
	TTL    float64           `json:"ttl_seconds"`
}

// Ticket is a new ticket.
type Ticket struct {
	Ticket   string            `json:"ticket"`
	ID       string            `json:"id"`
	Site     string            `json:"site"`
	Labels   map[string]string `json:"labels,omitempty"`
	NotAfter time.Time         `json:"not_after"`
	Addrs    []string          `json:"addrs"`
	Warning  string            `json:"warning,omitempty"`
}

// VoidTickets makes the unused tickets of an identity void.
var VoidTickets = Endpoint[None, Voided]{http.MethodPost, "/v1/identities/{id}/tickets/void"}

// Voided is the identity whose tickets are void.
type Voided struct {
	Recorded

	ID       string `json:"id"`
	Enrolled bool   `json:"enrolled"` // the name has a certificate
}

// Revoke ends an identity everywhere.
var Revoke = Endpoint[RevokeRequest, Revoked]{http.MethodPost, "/v1/identities/{id}/revoke"}

// RevokeRequest gives the reason, and what ends with the identity.
type RevokeRequest struct {
	Reason        string `json:"reason"`
	ClearRetained bool   `json:"clear_retained"`
}

// Revoked is a revoked identity.
type Revoked struct {
	Recorded

	ID         string    `json:"id"`
	Generation uint64    `json:"generation"`
	NotAfter   time.Time `json:"certificate_not_after"` // of its last certificate: nothing takes it after that
}

// Replace lets a name be enrolled again with a new key.
var Replace = Endpoint[None, Replaced]{http.MethodPost, "/v1/identities/{id}/replace"}

// Replaced is an identity without a key.
type Replaced struct {
	Recorded
	Identity
}

// RemoveSite ends a site and its nodes.
var RemoveSite = Endpoint[None, RemovedSite]{http.MethodPost, "/v1/sites/{site}/remove"}

// RemovedSite is a site that has ended.
type RemovedSite struct {
	Recorded

	Site  string   `json:"site"`
	Nodes []string `json:"nodes"`           // that were ended
	Left  int      `json:"identities_left"` // that have their home there and stay
}

// ListPasswords lists the names that have a password on a node.
var ListPasswords = List[None, Password]{"/v1/passwords/list"}

// SetPassword sets the password of a device or service.
var SetPassword = Endpoint[PasswordRequest, Password]{http.MethodPost, "/v1/identities/{id}/password"}

// DeletePassword takes a password away.
var DeletePassword = Endpoint[None, Password]{http.MethodPost, "/v1/identities/{id}/password/delete"}

// PasswordRequest is a password, and the labels and site of a name that is new.
type PasswordRequest struct {
	Password []byte            `json:"password"`
	Labels   map[string]string `json:"labels,omitempty"`
	Site     string            `json:"site,omitempty"`
}

// Password is a name that has a password on a node.
type Password struct {
	ID    string    `json:"id"`
	Set   time.Time `json:"set"`
	State string    `json:"state"` // active, or why the password is good for nothing: revoked, replaced, unknown
}
