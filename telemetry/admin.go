package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// adminCloseTimeout is how long requests may go on after the daemon has ended.
const adminCloseTimeout = 500 * time.Millisecond

// AdminConfig is what an [Admin] is made from.
type AdminConfig struct {
	// Addr is host:port. Anything but a loopback address requires a token.
	Addr string
	// Tokens are what requests must bear.
	Tokens Tokens
	// Pprof is true if profiles of the process may be taken.
	Pprof bool
	// Metrics serves /metrics. Required.
	Metrics http.Handler
	// Healthy returns why the process makes no progress, or nil. Required; it is
	// called at any time, by any goroutine, as Ready is.
	Healthy func() error
	// Ready returns what has to be ready. Required.
	Ready func() Readiness
	// API are routes beside those of the server itself. They bound what they read.
	API []Route
	// Page serves what is below /ui/, and looks by itself who may. Nil: there is none.
	Page http.Handler
	// BasePath is what a proxy has before all paths, such as /warren; requests with and
	// without it are served. Empty: nothing.
	BasePath string
	// Hosts are further names of this server, by which requests may call it.
	Hosts []string
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
	Paused string `json:"paused,omitempty"` // for how long, by whom and why all daemons leave a queue, ready all the same, alone
	Quiet  string `json:"quiet,omitempty"`  // the same, of this daemon
	Braked string `json:"braked,omitempty"` // for how long and why a queue, ready all the same, is worked one message at a time
}

// Validate returns what is wrong with Addr and Tokens, naming the variables.
func (c AdminConfig) Validate() error {
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return fmt.Errorf("WARREN_ADMIN_ADDR is %q; it must be host:port, or empty for no admin server", c.Addr)
	}
	err = c.Tokens.validate()
	if p := c.BasePath; p != "" && (!strings.HasPrefix(p, "/") || path.Clean(p) != p || p == "/" || strings.Trim(p, basePathCharacters) != "") {
		err = errors.Join(err, fmt.Errorf("WARREN_ADMIN_BASE_PATH is %q; it must be a path such as /warren, of letters, digits, -, ., _ and /, without a / at its end", p))
	}
	if !isLoopback(host) && len(c.Tokens.granting(Watch)) == 0 {
		err = errors.Join(err, fmt.Errorf("WARREN_ADMIN_ADDR is %q, which others can reach; set WARREN_ADMIN_TOKEN or WARREN_ADMIN_METRICS_TOKEN, or use 127.0.0.1", c.Addr))
	}
	return err
}

const basePathCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/"

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
	handler, err := cfg.Handler()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("WARREN_ADMIN_ADDR: %w; choose another port for each daemon on a machine", err)
	}
	return &Admin{listener, &http.Server{
		Handler:           handler,
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

// Routes are all that the server serves.
func (c AdminConfig) Routes() []Route {
	routes := []Route{
		{"GET /metrics", Watch, c.Metrics.ServeHTTP},
		{"GET /healthz", Watch, func(w http.ResponseWriter, _ *http.Request) {
			if err := c.Healthy(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		}},
		{"GET /readyz", Watch, func(w http.ResponseWriter, _ *http.Request) { writeReady(w, c.Ready()) }},
	}
	if c.Pprof {
		routes = append(routes,
			Route{"GET /debug/pprof/", Profile, pprof.Index},
			Route{"GET /debug/pprof/cmdline", Profile, pprof.Cmdline},
			Route{"GET /debug/pprof/profile", Profile, pprof.Profile},
			Route{"GET /debug/pprof/symbol", Profile, pprof.Symbol},
			Route{"GET /debug/pprof/trace", Profile, pprof.Trace})
	}
	for i, r := range routes {
		routes[i].Handler = http.MaxBytesHandler(r.Handler, 1<<16).ServeHTTP
	}
	return append(routes, c.API...)
}

// Handler returns what serves the routes to those who may. A route that nobody has been
// given a role for is an error.
func (c AdminConfig) Handler() (http.Handler, error) {
	mux, roles := http.NewServeMux(), make(map[string]Role)
	for _, r := range c.Routes() {
		if !r.Role.isKnown() {
			return nil, fmt.Errorf("the route %s has the role %q, which is none: nobody may use it", r.Pattern, r.Role)
		}
		mux.HandleFunc(r.Pattern, r.Handler)
		roles[r.Pattern] = r.Role
	}
	all := c.Tokens.guard(mux, roles)
	if c.Page != nil {
		all = c.withPage(all)
	}
	all = c.checkHost(http.NewCrossOriginProtection().Handler(all))
	if c.BasePath != "" {
		all = c.withoutBase(all)
	}
	return all, nil
}

// withPage serves the page, and the rest by next.
func (c AdminConfig) withPage(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/" && r.Method == http.MethodGet:
			http.Redirect(w, r, c.BasePath+"/ui/", http.StatusSeeOther)
		case r.URL.Path == "/ui" || strings.HasPrefix(r.URL.Path, "/ui/"):
			c.Page.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// withoutBase takes the base path off the paths that have it.
func (c AdminConfig) withoutBase(next http.Handler) http.Handler {
	stripped := http.StripPrefix(c.BasePath, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == c.BasePath:
			http.Redirect(w, r, c.BasePath+"/", http.StatusSeeOther)
		case strings.HasPrefix(r.URL.Path, c.BasePath+"/"):
			stripped.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// checkHost refuses what a browser sends to a loopback address in the belief that it is
// another host: a page can have the name of its own host lead here. What changes
// something has to name a host.
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
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		host = strings.ToLower(host)
		if !isLoopback(host) && !slices.Contains(c.Hosts, host) && (host != "" || !reads) {
			http.Error(w, "WARREN_ADMIN_ADDR is a loopback address: the header Host must be one, too, or localhost, or named in WARREN_ADMIN_HOSTS", http.StatusForbidden)
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
