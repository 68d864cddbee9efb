package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// send sends a request with headers, name after value, and returns the status.
func send(t *testing.T, method, url, host string, body io.Reader, headers ...string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = host
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

var answers = func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Method) }

// A route that nobody has a role for does not start.
func TestARouteWithoutARoleDoesNotStart(t *testing.T) {
	for _, role := range []Role{"", "everybody"} {
		_, err := NewAdmin(AdminConfig{Addr: "127.0.0.1:0", Metrics: http.HandlerFunc(answers), API: []Route{{"POST /v1/purge", role, answers}}}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), "the route POST /v1/purge has the role") {
			t.Errorf("role %q: got %v", role, err)
		}
	}
}

func TestTokensHaveToDiffer(t *testing.T) {
	for want, tokens := range map[string]Tokens{
		"": {All: secret, Metrics: secret + "m", Publish: secret + "p", State: secret + "s"},
		"WARREN_ADMIN_STATE_TOKEN is the same as WARREN_ADMIN_PUBLISH_TOKEN": {Publish: secret, State: secret},
		"WARREN_ADMIN_METRICS_TOKEN is too short":                            {Metrics: "short"},
	} {
		err := AdminConfig{Addr: "127.0.0.1:0", Tokens: tokens}.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := (AdminConfig{Addr: "0.0.0.0:1", Tokens: Tokens{Publish: secret}}).Validate(); err == nil || !strings.Contains(err.Error(), "which others can reach") {
		t.Errorf("metrics for everybody: got %v", err)
	}
	if err := (AdminConfig{Addr: "0.0.0.0:1", Tokens: Tokens{Metrics: secret}}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestBrowsersAreKeptOut(t *testing.T) {
	url, _ := serve(t, AdminConfig{API: []Route{{"/v1/", Publish, answers}}, Tokens: Tokens{All: secret}})
	for host, want := range map[string]int{
		"localhost": 200, "LocalHost:9466": 200, "127.0.0.1:1": 200, "127.0.0.2": 200, "[::1]:9466": 200, "[::1]": 200,
		"evil.example": 403, "evil.example:9466": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example": 403, "10.0.0.1": 403,
	} {
		for _, path := range []string{"/v1/", "/metrics"} {
			if got := send(t, "GET", url+path, host, nil, "Authorization", "Bearer "+secret); got != want {
				t.Errorf("%s with Host %s: got %d, want %d", path, host, got, want)
			}
		}
	}
	// The host is looked at before anything else, and what changes something has to have one.
	for _, host := range []string{"evil.example", ""} {
		request := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/", nil)
		request.Host = host
		request.Header.Set("Authorization", "Bearer "+secret)
		cfg := AdminConfig{Addr: "127.0.0.1:1", Metrics: http.HandlerFunc(answers), API: []Route{{"/v1/", Publish, answers}}, Tokens: Tokens{All: secret}}
		handler, err := cfg.Handler()
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, request)
		if w.Code != http.StatusForbidden {
			t.Errorf("POST with the Host %q: got %d, want 403", host, w.Code)
		}
	}
	for _, headers := range [][]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "null"}} {
		if got := send(t, "POST", url+"/v1/", "", nil, append(headers, "Authorization", "Bearer "+secret)...); got != http.StatusForbidden {
			t.Errorf("with %q: got %d, want 403", headers, got)
		}
	}
}

// A proxy may call the server by a name and a path that are configured.
func TestBehindAProxy(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	url, _ := serve(t, AdminConfig{Page: page, BasePath: "/warren", Hosts: []string{"ops.example.net"}})
	for path, want := range map[string]int{"/ui/": 200, "/warren/ui/": 200, "/warren/metrics": 200, "/metrics": 200, "/warrenx/metrics": 404} {
		if got := send(t, "GET", url+path, "OPS.example.net", nil); got != want {
			t.Errorf("%s: got %d, want %d", path, got, want)
		}
	}
	if got := send(t, "GET", url+"/ui/", "other.example.net", nil); got != http.StatusForbidden {
		t.Errorf("another name: got %d, want 403", got)
	}
	if _, body := get(t, "GET", url+"/warren/ui/queue", ""); body != "/ui/queue" {
		t.Errorf("the page is asked for %s", body)
	}
	for _, path := range []string{"warren", "/", "/a/", "/a/../b", "/a b", "//a", `/a"`} {
		if err := (AdminConfig{Addr: "127.0.0.1:0", BasePath: path}).Validate(); err == nil || !strings.Contains(err.Error(), "WARREN_ADMIN_BASE_PATH") {
			t.Errorf("base path %q: got %v", path, err)
		}
	}
	err := AdminConfig{Addr: "127.0.0.1:0", Tokens: Tokens{All: secret, View: secret, Admin: "short"}}.Validate()
	if err == nil || !strings.Contains(err.Error(), "WARREN_UI_VIEW_TOKEN is the same as WARREN_ADMIN_TOKEN") || !strings.Contains(err.Error(), "WARREN_UI_ADMIN_TOKEN is too short") {
		t.Errorf("got %v", err)
	}
}
