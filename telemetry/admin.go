package telemetry

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// minTokenBytes is what a token must have to be worth guessing at.
	minTokenBytes = 16
	// adminCloseTimeout is how long requests may go on after the daemon has ended.
	adminCloseTimeout = 500 * time.Millisecond
)

// AdminConfig is what an [Admin] is made from.
type AdminConfig struct {
	// Addr is host:port. Anything but a loopback address requires a token.
	Addr string
	// Token, if not empty, is what every request must bear.
	Token string
	// Pprof is true if profiles of the process may be taken.
	Pprof bool
	// Metrics serves /metrics. Required.
	Metrics http.Handler
	// Healthy returns why the process makes no progress, or nil. Required; it is
	// called at any time, by any goroutine, as Ready is.
	Healthy func() error
	// Ready returns what has to be ready. Required.
	Ready func() Readiness
	// API serves the paths below /v1/, which always require the token. It bounds what
	// it reads. Nil means that there are none.
	API http.Handler
}

// A Readiness is all that has to be ready.
type Readiness struct {
	Queues   []Check
	Database *Check // nil: there is none
}

// Ready tells whether everything is.
func (r Readiness) Ready() bool {
	notReady := func(c Check) bool { return !c.Ready }
	return !slices.ContainsFunc(r.Queues, notReady) && (r.Database == nil || r.Database.Ready)
}

// A Check is one thing that has to be ready.
type Check struct {
	Name   string `json:"name,omitempty"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why it is not
}

// Validate returns what is wrong with Addr and Token, naming the variables.
func (c AdminConfig) Validate() error {
	host, _, err := net.SplitHostPort(c.Addr)
	switch {
	case err != nil:
		return fmt.Errorf("WARREN_ADMIN_ADDR is %q; it must be host:port, or empty for no admin server", c.Addr)
	case c.Token != "" && len(c.Token) < minTokenBytes:
		return fmt.Errorf("WARREN_ADMIN_TOKEN is too short; it must have at least %d characters", minTokenBytes)
	case c.Token == "" && !isLoopback(host):
		return fmt.Errorf("WARREN_ADMIN_ADDR is %q, which others can reach; set WARREN_ADMIN_TOKEN, or use 127.0.0.1", c.Addr)
	}
	return nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// An Admin is the HTTP server for whoever watches the daemon: /metrics, /healthz,
// /readyz and, where asked for, /debug/pprof/; and that of the API.
type Admin struct {
	listener net.Listener
	server   *http.Server
}

// NewAdmin begins to listen. The error names the variable that settles it.
func NewAdmin(cfg AdminConfig, log *slog.Logger) (*Admin, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("WARREN_ADMIN_ADDR: %w; choose another port for each daemon on a machine", err)
	}
	return &Admin{listener, &http.Server{
		Handler:           cfg.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      90 * time.Second, // a CPU profile takes 30 s
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    1 << 14,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// Addr is where the server listens.
func (a *Admin) Addr() string { return a.listener.Addr().String() }

// Run serves until ctx ends, and a moment longer for requests under way. It blocks
// until then.
func (a *Admin) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(a.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("admin server: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminCloseTimeout)
	defer cancel()
	if err := a.server.Shutdown(grace); err != nil {
		_ = a.server.Close() // whoever still reads has had the time
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin server: %w", err)
	}
	return nil
}

func (c AdminConfig) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", c.Metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := c.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { writeReady(w, c.Ready()) })
	if c.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	all := http.NewServeMux()
	all.Handle("/", http.MaxBytesHandler(mux, 1<<16))
	if c.API != nil {
		all.Handle("/v1/", c.requireToken(c.API))
	}
	return c.checkHost(http.NewCrossOriginProtection().Handler(c.guard(all)))
}

// requireToken lets nobody through if there is no token: with the other paths, who can
// reach a loopback address may see something, but not do anything.
func (c AdminConfig) requireToken(next http.Handler) http.Handler {
	if c.Token != "" {
		return next // who has come so far bears it
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the paths below /v1/ require a token: set WARREN_ADMIN_TOKEN", http.StatusForbidden)
	})
}

// checkHost refuses what a browser sends to a loopback address in the belief that it is
// another host: a page can have the name of its own host lead here.
func (c AdminConfig) checkHost(next http.Handler) http.Handler {
	addr, _, err := net.SplitHostPort(c.Addr)
	if err != nil || !isLoopback(addr) {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil { // there is no port
			host = strings.Trim(r.Host, "[]")
		}
		if host != "" && !isLoopback(strings.ToLower(host)) {
			http.Error(w, "WARREN_ADMIN_ADDR is a loopback address: the header Host must be one, too, or localhost", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// guard lets through who bears the token, if there is one.
func (c AdminConfig) guard(next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(c.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(token)) // of equal length, whatever was sent
		if c.Token != "" && (!bearer || subtle.ConstantTimeCompare(got[:], want[:]) != 1) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "the token of WARREN_ADMIN_TOKEN is required: Authorization: Bearer TOKEN", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func writeReady(w http.ResponseWriter, r Readiness) {
	status := http.StatusOK
	if !r.Ready() {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct { // the client may have gone
		Ready    bool    `json:"ready"`
		Queues   []Check `json:"queues"`
		Database *Check  `json:"database,omitempty"`
	}{r.Ready(), r.Queues, r.Database})
}
