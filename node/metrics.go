package node

import (
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// webAPI serves metrics and health on loopback.
func (n *Node) webAPI() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &collector{n: n})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", n.serveReady)
	return mux
}

// serveReady says whether this node serves its own clients. Other sites do not
// matter: a partition is not a reason to take a site out of service.
func (n *Node) serveReady(w http.ResponseWriter, _ *http.Request) {
	if time.Now().After(n.store.SVID().NotAfter()) {
		http.Error(w, "this node's certificate has expired", http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ready\n")
}

// collector turns the parts' counters into metrics when they are asked for.
type collector struct{ n *Node }

var (
	messagesDesc = prometheus.NewDesc("hpmq_mqtt_messages_total", "PUBLISH packets by what became of them.", []string{"event"}, nil)
	deniedDesc   = prometheus.NewDesc("hpmq_mqtt_denied_total", "Refusals by policy.", []string{"action"}, nil)
	clientsDesc  = prometheus.NewDesc("hpmq_mqtt_clients", "Connected MQTT clients.", nil, nil)
	sessionsDesc = prometheus.NewDesc("hpmq_mqtt_sessions", "MQTT sessions, connected or not.", nil, nil)
	retainedDesc = prometheus.NewDesc("hpmq_mqtt_retained_messages", "Retained messages.", nil, nil)
	retainedSize = prometheus.NewDesc("hpmq_mqtt_retained_bytes", "Size of the retained messages.", nil, nil)
	dropsDesc    = prometheus.NewDesc("hpmq_mqtt_dropped_total", "Messages that a session did not get, by reason.", []string{"reason"}, nil)
	refusedDesc  = prometheus.NewDesc("hpmq_mqtt_refused_connections_total", "Connections that were not accepted.", nil, nil)
	slowedDesc   = prometheus.NewDesc("hpmq_mqtt_throttled_total", "Times that a publisher was not read because of its rate.", nil, nil)
	heldDesc     = prometheus.NewDesc("hpmq_mqtt_memory_held_bytes", "Bytes held for others.", nil, nil)
	ceilingDesc  = prometheus.NewDesc("hpmq_mqtt_memory_limit_bytes", "Bytes held for others at which new work is refused.", nil, nil)
	fullDesc     = prometheus.NewDesc("hpmq_mqtt_memory_refused_total", "Work refused because memory was full.", []string{"work"}, nil)
	diskDesc     = prometheus.NewDesc("hpmq_store_disk_bytes", "Bytes that the files of the message store take.", nil, nil)
	queuedDesc   = prometheus.NewDesc("hpmq_mqtt_queued_messages", "Messages that wait in session queues.", nil, nil)
	sharedDesc   = prometheus.NewDesc("hpmq_mqtt_shared_waiting_messages", "Messages of shared subscriptions that no member has acknowledged.", nil, nil)
	againDesc    = prometheus.NewDesc("hpmq_mqtt_shared_redispatched_total", "Messages of shared subscriptions that went to another member because a connection ended.", nil, nil)
	linkDesc     = prometheus.NewDesc("hpmq_link_messages_total", "Messages of the links to other sites.", []string{"site", "event"}, nil)
	linkQueue    = prometheus.NewDesc("hpmq_link_queued_messages", "Messages that wait for another site.", []string{"site"}, nil)
	peersDesc    = prometheus.NewDesc("hpmq_overlay_peers", "Connected mesh peers.", nil, nil)
	recordsDesc  = prometheus.NewDesc("hpmq_directory_records", "Records of the directory on this node.", nil, nil)
	staleDesc    = prometheus.NewDesc("hpmq_directory_head_age_seconds", "Time since the writer signed the newest head.", nil, nil)
	strangeDesc  = prometheus.NewDesc("hpmq_directory_refused_total", "Messages of other nodes about the directory that were not taken: forged, torn or contradicting ones, and records that the disk did not keep.", nil, nil)
	rulesDesc    = prometheus.NewDesc("hpmq_rules_refused_total", "Rules of agents that this node did not take from another, or that an agent did not take from it, by reason.", []string{"reason"}, nil)
	certDesc     = prometheus.NewDesc("hpmq_certificate_expiry_timestamp_seconds", "When this node's certificate expires.", nil, nil)
	callsDesc    = prometheus.NewDesc("hpmq_function_calls_total", "Calls of a function.", []string{"function"}, nil)
	faultsDesc   = prometheus.NewDesc("hpmq_function_failures_total", "Calls of a function that failed.", []string{"function", "fault"}, nil)
)

// Describe implements prometheus.Collector: the set is found by collecting.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	b := c.n.broker.Counters()
	count(messagesDesc, b.MessagesReceived, "received")
	count(messagesDesc, b.MessagesSent, "sent")
	count(messagesDesc, b.MessagesInjected, "injected")
	count(messagesDesc, b.MessagesForwarded, "forwarded")
	count(messagesDesc, b.MessagesDropped, "dropped")
	count(messagesDesc, b.FilterDropped, "function_dropped")
	count(messagesDesc, b.FilterRejected, "function_rejected")
	count(deniedDesc, b.DeniedLogin, "login")
	count(deniedDesc, b.DeniedConnect, "connect")
	count(deniedDesc, b.DeniedPublish, "publish")
	count(deniedDesc, b.DeniedSubscribe, "subscribe")
	count(deniedDesc, b.DeniedReceive, "receive")
	count(deniedDesc, b.DeniedFunction, "function")
	for reason, n := range b.Drops {
		count(dropsDesc, n, reason)
	}
	count(refusedDesc, b.ConnectionsRefused)
	count(slowedDesc, b.Throttled)
	gauge(heldDesc, float64(b.MemoryHeld))
	gauge(ceilingDesc, float64(b.MemoryLimit))
	for work, n := range b.MemoryRefused {
		count(fullDesc, n, work)
	}
	gauge(retainedSize, float64(b.Store.RetainedBytes))
	gauge(clientsDesc, float64(b.Clients))
	gauge(sessionsDesc, float64(b.Sessions))
	gauge(retainedDesc, float64(b.Store.Retained))
	gauge(diskDesc, float64(c.n.messages.DiskBytes()))
	gauge(queuedDesc, float64(b.Store.Queued))
	gauge(sharedDesc, float64(b.SharedWaiting))
	count(againDesc, b.Redispatched)
	for _, l := range c.n.links.Stats() {
		count(linkDesc, l.Sent, l.Site, "sent")
		count(linkDesc, l.Received, l.Site, "received")
		count(linkDesc, l.Dropped, l.Site, "dropped")
		count(linkDesc, l.Withheld, l.Site, "withheld")
		gauge(linkQueue, float64(l.Queued), l.Site)
	}
	gauge(peersDesc, float64(len(c.n.overlay.Peers())))
	gauge(recordsDesc, float64(c.n.directory.Tip().Count))
	gauge(staleDesc, c.n.directory.Stale().Seconds())
	count(strangeDesc, c.n.directory.Refused())
	for reason, n := range c.n.agentRules.refused.Counts() {
		count(rulesDesc, n, string(reason))
	}
	gauge(certDesc, float64(c.n.store.SVID().NotAfter().Unix()))
	for _, f := range c.n.functions.runtime.Stats() {
		count(callsDesc, f.Calls, f.Function)
		for fault, times := range f.Faults {
			count(faultsDesc, times, f.Function, fault)
		}
	}
}
