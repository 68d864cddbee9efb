package daemon

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/httpapi"
	"github.com/warrenmq/warren/telemetry"
)

// TestWhoMayDoWhat asks for every route that there is, with every token, and without
// any. A route without a row in the table fails.
func TestWhoMayDoWhat(t *testing.T) {
	const all, metrics, publish, state, wrong = "all-0123456789abcdef", "metrics-0123456789ab", "publish-0123456789ab", "state-0123456789abcd", "wrong-0123456789abcd"
	type policy struct {
		body  string
		may   []string // the tokens that are let through
		open  bool     // to whoever can reach a loopback address, if no token is set
		alone bool     // ... if one is set that is not for this
	}
	table := map[string]policy{
		"GET /metrics":              {may: []string{all, metrics}, open: true, alone: true},
		"GET /healthz":              {may: []string{all, metrics}, open: true, alone: true},
		"GET /readyz":               {may: []string{all, metrics}, open: true, alone: true},
		"GET /debug/pprof/":         {may: []string{all}, open: true},
		"GET /debug/pprof/cmdline":  {may: []string{all}, open: true},
		"GET /debug/pprof/profile":  {may: []string{all}, open: true},
		"GET /debug/pprof/symbol":   {may: []string{all}, open: true},
		"GET /debug/pprof/trace":    {may: []string{all}, open: true},
		"POST /v1/queues/{queue}":   {may: []string{all, publish}, body: "{}"},
		"GET /v1/messages/{id}":     {may: []string{all, state}},
		"GET /v1/openapi.yaml":      {may: []string{all, publish, state}},
		"GET /nowhere":              {may: []string{all, metrics, publish, state}, open: true},
		"DELETE /v1/queues/{queue}": {may: []string{all, metrics, publish, state}, open: true},
	}
	config := func(tokens telemetry.Tokens) telemetry.AdminConfig {
		api := httpapi.Config{Queues: []string{"orders"}, Publish: func(context.Context, consumer.Message) error { return nil }}
		return telemetry.AdminConfig{
			Addr: "127.0.0.1:0", Tokens: tokens, Pprof: true, Metrics: http.NotFoundHandler(), Healthy: func() error { return nil },
			Ready: func() telemetry.Readiness { return telemetry.Readiness{} },
			API:   apiRoutes(httpapi.Routes(api, slog.New(slog.DiscardHandler))),
		}
	}
	for _, r := range config(telemetry.Tokens{}).Routes() {
		if _, there := table[r.Pattern]; !there {
			t.Errorf("the route %s has no row in this table: who may use it?", r.Pattern)
		}
	}
	// ask returns the status of a route, or 0 if the request got through the door.
	ask := func(tokens telemetry.Tokens, pattern, body, authorization string) int {
		t.Helper()
		cfg := config(tokens)
		for i := range cfg.API {
			cfg.API[i].Handler = func(http.ResponseWriter, *http.Request) {}
		}
		handler, err := cfg.Handler()
		if err != nil {
			t.Fatal(err)
		}
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{queue}", "orders", "{id}", "m", "profile", "profile?seconds=x", "/trace", "/trace?seconds=0.001").Replace(path)
		r := httptest.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(body))
		if strings.Contains(path, "profile?") { // takes a second: that it may is seen by its being cut short
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			r = r.WithContext(ctx)
		}
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		for _, secret := range []string{all, metrics, publish, state} {
			if strings.Contains(w.Body.String(), secret) && !strings.Contains(path, "cmdline") {
				t.Errorf("%s answers with a token: %s", pattern, w.Body)
			}
		}
		if w.Code == http.StatusUnauthorized || w.Code == http.StatusForbidden {
			return w.Code
		}
		return 0
	}
	everything := telemetry.Tokens{All: all, Metrics: metrics, Publish: publish, State: state}
	for pattern, p := range table {
		check := func(what string, tokens telemetry.Tokens, authorization string, want int) {
			t.Helper()
			if got := ask(tokens, pattern, p.body, authorization); got != want {
				t.Errorf("%s, %s: got %d, want %d (0: let through)", pattern, what, got, want)
			}
		}
		for _, token := range []string{all, metrics, publish, state} {
			want := http.StatusForbidden
			for _, may := range p.may {
				if may == token {
					want = 0
				}
			}
			check("with the token "+token, everything, "Bearer "+token, want)
			check("with the token "+token+" in small letters", everything, "bearer "+token, want)
		}
		for _, authorization := range []string{"", "Bearer ", "Bearer " + wrong, "Bearer " + all[1:], "Bearer " + all + "x", "Basic " + all, all} {
			check("with "+authorization, everything, authorization, http.StatusUnauthorized)
		}
		closed := func(open bool) int {
			if open {
				return 0
			}
			return http.StatusForbidden
		}
		check("no token being set", telemetry.Tokens{}, "", closed(p.open))
		check("no token being set", telemetry.Tokens{}, "Bearer "+wrong, closed(p.open))
		if len(p.may) < 4 {
			other := telemetry.Tokens{State: state}
			if strings.HasPrefix(pattern, "GET /v1/") {
				other = telemetry.Tokens{Metrics: metrics}
			}
			check("only a token for something else being set", other, "", closed(p.alone))
		}
	}
}
