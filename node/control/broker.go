package control

import (
	"net/http"
	"time"
)

// ListSessions lists the MQTT sessions of a node.
var ListSessions = List[None, Session]{"/v1/clients/list"}

// Session is an MQTT session.
type Session struct {
	ID            string            `json:"id"`
	ClientID      string            `json:"client_id"`
	Connected     bool              `json:"connected"`
	Remote        string            `json:"remote"`
	Protocol      string            `json:"protocol"`
	Since         time.Time         `json:"since"` // of the connection, or of its end
	Subscriptions []string          `json:"subscriptions"`
	Asleep        int               `json:"asleep"` // of subscriptions: the policy does not grant them now
	Inflight      int               `json:"inflight"`
	Queued        int               `json:"queued"`
	Dropped       uint64            `json:"dropped"`
	Drops         map[string]uint64 `json:"drops"` // of dropped, by reason
	Denied        uint64            `json:"denied"`
	Throttled     uint64            `json:"throttled"`              // how often the identity was not read because of its rate
	ThrottledBy   string            `json:"throttled_by,omitempty"` // the rule that set the rate
}

// Kick ends the connections of an identity.
var Kick = Endpoint[KickRequest, Kicked]{http.MethodPost, "/v1/identities/{id}/kick"}

// KickRequest says which connections end, and how.
type KickRequest struct {
	ClientID        string `json:"client_id"`        // empty is all
	Session         bool   `json:"session"`          // ends that too
	ServerReference string `json:"server_reference"` // for MQTT 5 clients
}

// Kicked counts the connections and sessions that ended.
type Kicked struct {
	ID          string `json:"id"`
	Connections int    `json:"connections"`
	Sessions    int    `json:"sessions"`
}

// WhyRequest asks whether the policy lets a subject do something.
type WhyRequest struct {
	Who    string `json:"who"`
	Action string `json:"action"`
	Object string `json:"object"`
}

// FilterRequest asks for the entries that a topic filter matches.
type FilterRequest struct {
	Filter string `json:"filter"`
}

// TopicRequest asks about one topic name.
type TopicRequest struct {
	Topic string `json:"topic"`
}

// ListRetained lists the retained messages of a node.
var ListRetained = List[FilterRequest, Retained]{"/v1/retained"}

// Retained is a retained message.
type Retained struct {
	Topic     string     `json:"topic"`
	Size      int        `json:"size"` // bytes of payload
	QoS       byte       `json:"qos"`
	Published time.Time  `json:"published"`
	Expires   *time.Time `json:"expires,omitempty"`
	Publisher string     `json:"publisher"`
}

// ClearRetained removes retained messages, at the other sites too.
var ClearRetained = Endpoint[FilterRequest, Cleared]{http.MethodPost, "/v1/retained/clear"}

// Cleared counts the retained messages that were removed.
type Cleared struct {
	Cleared int `json:"cleared"`
}

// ListFilters lists the topic filters that clients of a node subscribed to.
var ListFilters = List[FilterRequest, Filter]{"/v1/filters"}

// Filter is a topic filter and the number of its subscriptions.
type Filter struct {
	Filter        string `json:"filter"`
	Subscriptions int    `json:"subscriptions"`
}

// FindReceivers says which sessions a message would reach.
var FindReceivers = Endpoint[TopicRequest, Receivers]{http.MethodPost, "/v1/receivers"}

// Receivers are the subscriptions that match a topic.
type Receivers struct {
	Topic     string     `json:"topic"`
	Elsewhere bool       `json:"elsewhere"` // another site asked for it
	Receivers []Receiver `json:"receivers"`
}

// Receiver is a subscription that matches a topic.
type Receiver struct {
	ID        string `json:"id"`
	ClientID  string `json:"client_id"`
	Filter    string `json:"filter"`
	QoS       byte   `json:"qos"`
	Connected bool   `json:"connected"`
	Gets      bool   `json:"gets"`
	Why       string `json:"why,omitempty"`
}

// BackupPath is the endpoint that replies with a backup, as a tar file.
const BackupPath = "/v1/backup"

// BackupNameHeader names the file that the reply of [BackupPath] suggests.
const BackupNameHeader = "Hpmq-Backup-Name"

// BackupRequest says which files a backup leaves out.
type BackupRequest struct {
	WithoutCA bool `json:"without_ca"`
}

// AccessPath is the endpoint whose connection becomes a stream to a device, and
// AccessProtocol the protocol that it upgrades to. See [Client.Access].
const (
	AccessPath     = "/v1/access/{id}"
	AccessProtocol = "hpmq-access"
)
