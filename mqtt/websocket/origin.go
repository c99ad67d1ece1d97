package websocket

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// mayConnect applies the rule on the Origin header, which a browser adds and its
// page cannot change: absent, of the host asked for, or listed. Without it any
// page that a user opens could use the certificate in the user's browser.
func (l *Listener) mayConnect(r *http.Request) bool {
	given := r.Header.Values("Origin")
	switch len(given) {
	case 0:
		return true
	case 1:
	default:
		return false
	}
	origin := strings.ToLower(given[0])
	if l.origins[origin] {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
		return false
	}
	if r.TLS != nil {
		// An attacker on the way can forge a page that came without TLS, under any
		// host.
		return u.Scheme == "https"
	}
	// Without TLS here a name proves nothing: a foreign page can have its own name
	// lead to this address.
	_, err = netip.ParseAddr(u.Hostname())
	return (u.Scheme == "http" || u.Scheme == "https") && (err == nil || u.Hostname() == "localhost")
}

// parseOrigins writes origins as browsers do: lower case and without the
// scheme's own port.
func parseOrigins(list []string) (map[string]bool, error) {
	origins := make(map[string]bool, len(list))
	for _, s := range list {
		u, err := url.Parse(strings.ToLower(s))
		if err != nil {
			return nil, fmt.Errorf("web origin %q: %w", s, err)
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.String() != u.Scheme+"://"+u.Host {
			return nil, fmt.Errorf("web origin %q: want https://host or https://host:port", s)
		}
		if u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80" {
			u.Host = strings.TrimSuffix(u.Host, ":"+u.Port())
		}
		origins[u.String()] = true
	}
	return origins, nil
}
