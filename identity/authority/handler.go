package authority

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
)

// Backend answers the requests of the enrolment API. It is an [Authority], or a
// [Relay] on a node without one.
type Backend interface {
	Roots() []*x509.Certificate
	Enrol(context.Context, *identity.EnrolRequest) (*identity.EnrolResponse, error)
	Renew(context.Context, *identity.RenewRequest) (*identity.EnrolResponse, error)
	CRL(context.Context) ([]byte, error) // see [Authority.CRL]
}

var (
	_ Backend = (*Authority)(nil)
	_ Backend = (*Relay)(nil)
)

// Handler serves the enrolment API on behalf of b. It answers strangers, so
// sizes and rates are bounded and failures are told to the log only. A nil log
// discards.
func Handler(b Backend, log logrus.FieldLogger) http.Handler {
	log = logfield.OrSilent(log)
	h := &handler{
		backend: b, log: log, limit: newLimiter[netip.Prefix](requestLimit),
		failures: rate.NewLimiter(rate.Every(time.Minute), 3),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+identity.RootsPath+"{hash}", h.roots)
	mux.HandleFunc("GET "+identity.CRLPath, h.crl)
	mux.HandleFunc("POST "+identity.EnrolPath, func(w http.ResponseWriter, r *http.Request) { answer(h, w, r, b.Enrol) })
	mux.HandleFunc("POST "+identity.RenewPath, func(w http.ResponseWriter, r *http.Request) { answer(h, w, r, b.Renew) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.refuse(w, r, refuse(http.StatusNotFound, "", "no such resource"))
	})
	return mux
}

type handler struct {
	backend Backend
	log     logrus.FieldLogger
	limit   *limiter[netip.Prefix]

	failures *rate.Limiter // of log lines: while no CA can be reached, every device's renewal fails
}

func (h *handler) roots(w http.ResponseWriter, r *http.Request) {
	for _, root := range h.backend.Roots() {
		sum := sha256.Sum256(root.Raw)
		if hex.EncodeToString(sum[:]) == r.PathValue("hash") {
			writePEM(w, identity.EncodeCertificates(root))
			return
		}
	}
	h.refuse(w, r, refuse(http.StatusNotFound, "", "no root certificate with this hash"))
}

func (h *handler) crl(w http.ResponseWriter, r *http.Request) {
	if !h.mayAsk(w, r) {
		return
	}
	text, err := h.backend.CRL(r.Context())
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	writePEM(w, text)
}

func writePEM(w http.ResponseWriter, text []byte) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Write(text) //nolint:errcheck // the client is gone
}

// mayAsk counts a request of this address that needs the CA, and refuses it when
// there are too many.
func (h *handler) mayAsk(w http.ResponseWriter, r *http.Request) bool {
	if h.limit.allow(source(r.RemoteAddr), time.Now()) {
		return true
	}
	w.Header().Set("Retry-After", "2")
	h.refuse(w, r, refuse(http.StatusTooManyRequests, "", "too many requests from this address"))
	return false
}

// answer reads one request, gives it to do, and writes the result.
func answer[Q any](h *handler, w http.ResponseWriter, r *http.Request, do func(context.Context, *Q) (*identity.EnrolResponse, error)) {
	if !h.mayAsk(w, r) {
		return
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		h.refuse(w, r, refuse(http.StatusUnsupportedMediaType, "", "want application/json"))
		return
	}
	q := new(Q)
	body := http.MaxBytesReader(w, r.Body, identity.MaxBodyBytes)
	if err := json.NewDecoder(body).Decode(q); err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			h.refuse(w, r, refuse(http.StatusRequestEntityTooLarge, "", "request of more than %d bytes", identity.MaxBodyBytes))
			return
		}
		h.refuse(w, r, refuse(http.StatusBadRequest, "", "request is not valid JSON"))
		return
	}
	a, err := do(r.Context(), q)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	h.write(w, http.StatusOK, a)
}

// refuse writes a refusal, or hides a failure behind one that may pass.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	refusal := asRefusal(err)
	log := h.log.WithFields(logrus.Fields{logfield.Remote: r.RemoteAddr, logfield.Reason: err.Error()})
	switch {
	case refusal.Status >= http.StatusInternalServerError && h.failures.Allow():
		log.Error("enrolment request failed")
	case refusal.Status == http.StatusForbidden || refusal.Status == http.StatusConflict:
		log.Warn("enrolment request refused")
	default:
		log.Debug("enrolment request refused")
	}
	h.write(w, refusal.Status, refusal)
}

func (h *handler) write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck,errchkjson // the client is gone
}

// asRefusal returns the answer in err, or one that tells a stranger no more
// than that it may try again.
func asRefusal(err error) *identity.APIError {
	if refusal, ok := errors.AsType[*identity.APIError](err); ok {
		return refusal
	}
	return refuse(http.StatusServiceUnavailable, "try again later; the node's log says why", "the CA cannot answer now")
}
