package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const secret = "0123456789abcdef"

// serve runs an admin server for the test and returns its URL, and what ends it.
func serve(t *testing.T, cfg AdminConfig) (url string, end func() error) {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	cfg.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
	if cfg.Healthy == nil {
		cfg.Healthy = func() error { return nil }
	}
	if cfg.Ready == nil {
		cfg.Ready = func() Readiness { return Readiness{Queues: []Check{{Name: "emails", Ready: true}}} }
	}
	admin, err := NewAdmin(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- admin.Run(ctx) }()
	end = func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return "http://" + admin.Addr(), end
}

func get(t *testing.T, method, url, authorization string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

func TestAdminAnswers(t *testing.T) {
	var healthy error
	ready := Readiness{Queues: []Check{{Name: "emails", Ready: true}, {Name: "reports", Ready: true}}}
	url, _ := serve(t, AdminConfig{Healthy: func() error { return healthy }, Ready: func() Readiness { return ready }})
	want := func(path string, status int, text string) {
		t.Helper()
		if got, body := get(t, "GET", url+path, ""); got != status || !strings.Contains(body, text) {
			t.Errorf("%s: got %d and %q, want %d and %q", path, got, body, status, text)
		}
	}
	want("/metrics", 200, "up 1")
	want("/healthz", 200, "ok")
	want("/readyz", 200, `"ready":true`)
	want("/debug/pprof/", 404, "")
	want("/", 404, "")

	ready.Queues[1].Braked = "for 1m0s: connection refused"
	want("/readyz", 200, `{"name":"reports","ready":true,"braked":"for 1m0s: connection refused"}`)

	healthy = errors.New("the loop of queue emails has been stuck for 2m0s")
	ready.Queues[1] = Check{Name: "reports", Reason: "queue reports is missing"}
	want("/healthz", 503, "queue emails has been stuck")
	want("/readyz", 503, `{"name":"reports","ready":false,"reason":"queue reports is missing"}`)
	_, body := get(t, "GET", url+"/readyz", "")
	var answer struct {
		Ready  bool
		Queues []Check
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Ready || len(answer.Queues) != 2 {
		t.Errorf("/readyz answers %s, read as %+v with error %v", body, answer, err)
	}
	ready = Readiness{Queues: ready.Queues[:1], Database: &Check{Reason: "connection refused"}}
	want("/readyz", 503, `{"ready":false,"queues":[{"name":"emails","ready":true}],"database":{"ready":false,"reason":"connection refused"}}`)
	if status, _ := get(t, "POST", url+"/readyz", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("POST: got %d, want 405", status)
	}
}

func TestAdminBindsToNothingElseWithoutAToken(t *testing.T) {
	for addr, c := range map[string]struct{ token, want string }{
		"127.0.0.1:0":   {"", ""},
		"[::1]:0":       {"", ""},
		"localhost:0":   {"", ""},
		"0.0.0.0:9466":  {secret, ""},
		"127.0.0.1:1":   {"short", "WARREN_ADMIN_TOKEN is too short"},
		":9466":         {"", "set WARREN_ADMIN_TOKEN"},
		"0.0.0.0:9467":  {"", "set WARREN_ADMIN_TOKEN"},
		"10.0.0.1:9466": {"", "set WARREN_ADMIN_TOKEN"},
		"mq.internal:1": {"", "set WARREN_ADMIN_TOKEN"},
		"9466":          {"", "must be host:port"},
	} {
		err := AdminConfig{Addr: addr, Tokens: Tokens{All: c.token}}.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", addr, err, c.want)
		}
	}
}

func TestAdminNamesThePortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = NewAdmin(AdminConfig{Addr: l.Addr().String(), Metrics: http.NotFoundHandler()}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "WARREN_ADMIN_ADDR") || !strings.Contains(err.Error(), "address already in use; choose another port") {
		t.Errorf("got %v", err)
	}
	_, end := serve(t, AdminConfig{Addr: "127.0.0.1:0", Metrics: http.NotFoundHandler()}) // any other port
	if err := end(); err != nil {
		t.Error(err)
	}
}

func TestAdminEndsWithItsContext(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	url, end := serve(t, AdminConfig{Healthy: func() error { close(entered); <-release; return nil }})
	go func() {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		if response, err := client.Get(url + "/healthz"); err == nil {
			_ = response.Body.Close()
		}
	}()
	<-entered
	start := time.Now()
	if err := end(); err != nil || time.Since(start) > 20*adminCloseTimeout {
		t.Errorf("ended after %v with %v, want about %v, though a request hangs", time.Since(start), err, adminCloseTimeout)
	}
	close(release)
}
