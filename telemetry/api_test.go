package telemetry

import (
	"fmt"
	"io"
	"net/http"
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

var readAll = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
	fmt.Fprint(w, n)
})

func TestAPIAlwaysRequiresAToken(t *testing.T) {
	without, _ := serve(t, AdminConfig{API: readAll})
	with, _ := serve(t, AdminConfig{API: readAll, Token: token})
	for _, path := range []string{"/v1/", "/v1/queues/emails", "/v1/messages/1", "/v1/openapi.yaml", "/v1/nonsense"} {
		for _, authorization := range []string{"", "Bearer ", "Bearer " + token} {
			if got := send(t, "POST", without+path, "", nil, "Authorization", authorization); got != http.StatusForbidden {
				t.Errorf("%s, no token being set, with %q: got %d, want 403", path, authorization, got)
			}
		}
		if got := send(t, "POST", with+path, "", nil); got != http.StatusUnauthorized {
			t.Errorf("%s without the token: got %d, want 401", path, got)
		}
		if got := send(t, "POST", with+path, "", strings.NewReader(strings.Repeat("x", 1<<20)), "Authorization", "Bearer "+token); got != http.StatusOK {
			t.Errorf("%s with the token: got %d, want 200", path, got)
		}
	}
	if got := send(t, "POST", without+"/v1", "", nil); got == http.StatusOK {
		t.Errorf("/v1: got %d", got)
	}
}

func TestBrowsersAreKeptOut(t *testing.T) {
	url, _ := serve(t, AdminConfig{API: readAll, Token: token})
	for host, want := range map[string]int{
		"localhost": 200, "LocalHost:9466": 200, "127.0.0.1:1": 200, "127.0.0.2": 200, "[::1]:9466": 200, "[::1]": 200,
		"evil.example": 403, "evil.example:9466": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example": 403, "10.0.0.1": 403,
	} {
		for _, path := range []string{"/v1/", "/metrics"} {
			if got := send(t, "GET", url+path, host, nil, "Authorization", "Bearer "+token); got != want {
				t.Errorf("%s with Host %s: got %d, want %d", path, host, got, want)
			}
		}
	}
	for _, headers := range [][]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "null"}} {
		if got := send(t, "POST", url+"/v1/", "", nil, append(headers, "Authorization", "Bearer "+token)...); got != http.StatusForbidden {
			t.Errorf("with %q: got %d, want 403", headers, got)
		}
	}
}
