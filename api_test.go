package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

const apiToken = "0123456789abcdef"

// apiQueue are the variables for a queue that programs publish to over HTTP.
func apiQueue(v *rabbittest.Vhost, name, script string, more ...string) []string {
	return commandQueue(v, name, script, append(more, "WARREN_ADMIN_ADDR=127.0.0.1:0", "WARREN_ADMIN_TOKEN="+apiToken)...)
}

// TestClientInPython runs the program of docs/http.md against a command that reports its
// progress and answers.
func TestClientInPython(t *testing.T) {
	t.Parallel()
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("%v; apt-get install python3 provides it", err)
	}
	page, err := os.ReadFile("docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	program := regexp.MustCompile("(?s)```python\n(.*?)```").FindSubmatch(page)
	if program == nil {
		t.Fatal("docs/http.md has no block of python")
	}
	for name, url := range map[string]string{"postgres": pgtest.URL(t), "sqlite": "sqlite:" + t.TempDir() + "/warren.db"} {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			d := start(t, apiQueue(v, "reports", `read -r body; echo warren:progress 50 half-way >&2; sleep 0.3; echo "{\"got\": $body}"`,
				"WARREN_DATABASE_URL="+url, "WARREN_MIGRATE=true")...)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			client := exec.CommandContext(ctx, python, "-c", string(program[1]))
			client.Env = []string{"WARREN_URL=" + d.adminURL(t), "WARREN_TOKEN=" + apiToken}
			out, err := client.CombinedOutput()
			if want := `succeeded {"got": {"month": "2026-10"}}` + "\n"; err != nil || string(out) != want {
				t.Errorf("it has printed %s and ended with %v, want %s", out, err, want)
			}
			d.signal(t, syscall.SIGTERM)
			wantExit(t, d, 0)
			if strings.Contains(d.log.String(), apiToken) || strings.Contains(d.log.String(), pgtest.Password) {
				t.Errorf("the log shows a secret:\n%s", d.log.String())
			}
		})
	}
}

// The program of docs/http.md says why a message is dead.
func TestClientInPythonOnADeadMessage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	program := regexp.MustCompile("(?s)```python\n(.*?)```").FindSubmatch(page)
	if program == nil {
		t.Fatal("docs/http.md has no block of python")
	}
	v := rabbittest.NewVhost(t)
	d := start(t, apiQueue(v, "reports", `echo no such month >&2; exit 65`, "WARREN_DATABASE_URL=sqlite:"+t.TempDir()+"/warren.db", "WARREN_MIGRATE=true")...)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	client := exec.CommandContext(ctx, "/usr/bin/python3", "-c", string(program[1]))
	client.Env = []string{"WARREN_URL=" + d.adminURL(t), "WARREN_TOKEN=" + apiToken}
	out, err := client.CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "dead: permanent: ") || !strings.Contains(string(out), "no such month") || strings.Contains(string(out), "Traceback") {
		t.Errorf("it has printed %s and ended with %v, want why the message is dead", out, err)
	}
}

// fetchReport is a program that has a report made, and fetches the file.
const fetchReport = `
import json, os, time, urllib.request

def call(path, body=None):
    headers = {"Authorization": "Bearer " + os.environ["WARREN_TOKEN"], "Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(os.environ["WARREN_URL"] + path, body, headers), timeout=30)

accepted = call("/v1/queues/reports", json.dumps({"report": "squares", "format": "csv", "params": {"to": 3}}).encode())
assert accepted.status == 202
while True:
    message = json.load(call(accepted.headers["Location"]))
    if message["state"] in ("succeeded", "dead"):
        break
    time.sleep(0.1)
print(message["state"], message["result"]["json"]["rows"])
print(open(message["result"]["json"]["location"]).read(), end="")
`

func TestClientInPythonFetchesAReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const query = "-- param: to int\nWITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :to) SELECT n, n * n AS square FROM n;\n"
	if err := os.WriteFile(dir+"/squares.sql", []byte(query), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{"postgres": pgtest.URL(t), "sqlite": "sqlite:" + t.TempDir() + "/warren.db"} {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			d := start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=reports", "WARREN_QUEUE_REPORTS_PROCESSOR=report",
				"WARREN_QUEUE_REPORTS_REPORTS="+dir, "WARREN_QUEUE_REPORTS_OUTPUT="+t.TempDir(),
				"WARREN_DATABASE_URL="+url, "WARREN_MIGRATE=true", "WARREN_ADMIN_ADDR=127.0.0.1:0", "WARREN_ADMIN_TOKEN="+apiToken)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			client := exec.CommandContext(ctx, "/usr/bin/python3", "-c", fetchReport)
			client.Env = []string{"WARREN_URL=" + d.adminURL(t), "WARREN_TOKEN=" + apiToken}
			out, err := client.CombinedOutput()
			if want := "succeeded 3\nn,square\n1,1\n2,4\n3,9\n"; err != nil || string(out) != want {
				t.Errorf("it has printed %s and ended with %v, want %s", out, err, want)
			}
		})
	}
}

// A checkedAPI asks the daemon, and holds every answer against consumer/httpapi/openapi.yaml.
type checkedAPI struct {
	t      *testing.T
	url    string
	router routers.Router
	seen   map[string]bool // operations and their statuses
}

func newCheckedAPI(t *testing.T, d *process) *checkedAPI {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("consumer/httpapi/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.IsOpenAPI31OrLater()); err != nil {
		t.Fatalf("consumer/httpapi/openapi.yaml: %v", err)
	}
	doc.Servers = nil // the daemon's port is another
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &checkedAPI{t, d.adminURL(t), router, make(map[string]bool)}
}

// ask sends a request with headers, name after value, and wants the status; 0 is any.
// A request that is answered with success has to be as the description has it, too.
func (a *checkedAPI) ask(status int, method, path, body string, headers ...string) (http.Header, string) {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+apiToken)
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	if status != 0 && response.StatusCode != status {
		a.t.Errorf("%s %s: got %d and %s, want %d", method, path, response.StatusCode, content, status)
	}
	route, params, err := a.router.FindRoute(request)
	if err != nil {
		a.t.Fatalf("%s %s is not described: %v", method, path, err)
	}
	request.Body = io.NopCloser(strings.NewReader(body))
	input := &openapi3filter.RequestValidationInput{Request: request, Route: route, PathParams: params, Options: &openapi3filter.Options{
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true,
	}}
	if err := openapi3filter.ValidateRequest(a.t.Context(), input); err != nil && response.StatusCode < 300 {
		a.t.Errorf("%s %s is answered with %d, but is not described: %v", method, path, status, err)
	}
	err = openapi3filter.ValidateResponse(a.t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: response.StatusCode, Header: response.Header, Body: io.NopCloser(bytes.NewReader(content)), Options: input.Options,
	})
	if err != nil {
		a.t.Errorf("the answer %d of %s %s is not as described: %v\n%s", response.StatusCode, method, path, err, content)
	}
	a.seen[fmt.Sprint(route.Operation.OperationID, " ", response.StatusCode)] = true
	return response.Header, string(content)
}

// await asks for the message until its state is another than those that pass.
func (a *checkedAPI) await(id, state string) string {
	a.t.Helper()
	var content string
	rabbittest.Eventually(a.t, 20*time.Second, func() bool {
		_, content = a.ask(0, "GET", "/v1/messages/"+id, "") // nothing may be known yet
		return strings.Contains(content, `"state":"`+state+`"`)
	}, id+" is "+state)
	return content
}

// TestAPIIsAsDescribed takes messages through every state, and requests to every answer,
// and holds them against consumer/httpapi/openapi.yaml.
func TestAPIIsAsDescribed(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	dir := t.TempDir()
	script := `read -r what; case $what in "\"hold\"") echo warren:progress 50 half-way >&2; until test -e ` + dir + `/go; do sleep 0.05; done;; "\"bytes\"") printf "\377";; ` +
		`"\"long\"") head -c 300000 /dev/zero;; "\"flaky\"") exit 1;; "\"wrong\"") echo no such order >&2; exit 65;; *) echo "{}";; esac`
	d := start(t, apiQueue(v, "orders", script, "WARREN_DATABASE_URL="+pgtest.URL(t), "WARREN_MIGRATE=true", "WARREN_ADMIN_MAX_BODY_BYTES=1000", "WARREN_QUEUE_ORDERS_RETRY_BASE=1m")...)
	a := newCheckedAPI(t, d)

	header, _ := a.ask(202, "POST", "/v1/queues/orders", `"fine"`, "Idempotency-Key", "fine", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if got := header.Get("Location"); got != "/v1/messages/fine" {
		t.Errorf("got the Location %q", got)
	}
	if got := a.await("fine", "succeeded"); !strings.Contains(got, `"json":{}`) {
		t.Errorf("got %s, want the result", got)
	}
	_, content := a.ask(202, "POST", "/v1/queues/orders", `{}`)
	var made struct {
		MessageID string `json:"message_id"`
	}
	if err := json.Unmarshal([]byte(content), &made); err != nil || made.MessageID == "" {
		t.Errorf("got %s, want a message_id", content)
	}
	a.await(made.MessageID, "succeeded")

	a.ask(202, "POST", "/v1/queues/orders", `"hold"`, "Message-Id", "held")
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		return strings.Contains(a.await("held", "processing"), `"progress":{"percent":50,"text":"half-way"}`)
	}, "it is half-way")
	if err := os.WriteFile(dir+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	a.await("held", "succeeded")

	a.ask(202, "POST", "/v1/queues/orders", `{}`, "Message-Id", "late", "X-Delay", "60000")
	a.await("late", "waiting")
	// What is published over AMQP has a state, too.
	v.Publish(t, "orders",
		amqp091.Publishing{MessageId: "bytes", Body: []byte(`"bytes"`)}, amqp091.Publishing{MessageId: "long", Body: []byte(`"long"`)},
		amqp091.Publishing{MessageId: "flaky", Body: []byte(`"flaky"`)}, amqp091.Publishing{MessageId: "wrong", Body: []byte(`"wrong"`)})
	for id, want := range map[string][]string{
		"bytes": {"succeeded", `"bytes":1,"base64":"/w=="`}, "long": {"succeeded", `"bytes":300000}`},
		"flaky": {"waiting", `"error":"exit status 1"`}, "wrong": {"dead", `"reason":"permanent","error":"exit status 65: no such order"`},
	} {
		if got := a.await(id, want[0]); !strings.Contains(got, want[1]) {
			t.Errorf("%s: got %s, want %s", id, got, want[1])
		}
	}

	// Sent again, it is recognised, and keeps its result.
	a.ask(202, "POST", "/v1/queues/orders", `"fine"`, "Idempotency-Key", "fine")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "orders")+v.Unacked(t, "orders") == 0 }, "the repeat is done")
	if _, got := a.ask(200, "GET", "/v1/messages/fine", ""); !strings.Contains(got, `"state":"succeeded"`) || !strings.Contains(got, `"json":{}`) {
		t.Errorf("after a repeat: got %s, want the result", got)
	}

	a.ask(202, "POST", "/v1/queues/orders", `{}`, "Message-Id", "whole", "Amqp-Type", "order.created", "Amqp-Priority", "7", "Amqp-Reply-To", "answers",
		"Amqp-Correlation-Id", "c-1", "Amqp-Expiration", "60000", "Amqp-Headers", `{"tenant": "acme", "n": 3}`)
	a.await("whole", "succeeded")
	a.ask(415, "POST", "/v1/queues/orders", `{}`, "Content-Type", "application/x-www-form-urlencoded")
	a.ask(400, "GET", "/v1/messages/fine?queue=%00", "")
	a.ask(400, "POST", "/v1/queues/orders", `{`)
	a.ask(404, "POST", "/v1/queues/emails", `{}`)
	a.ask(413, "POST", "/v1/queues/orders", `"`+strings.Repeat("x", 1000)+`"`)
	a.ask(404, "GET", "/v1/messages/unknown", "")
	for path, method := range map[string]string{"/v1/queues/orders": "POST", "/v1/messages/fine": "GET", "/v1/openapi.yaml": "GET"} {
		a.ask(401, method, path, "{}", "Authorization", "Bearer "+apiToken[1:])
	}
	a.ask(403, "POST", "/v1/queues/orders", `{}`, "Origin", "https://evil.example")
	described, err := os.ReadFile("consumer/httpapi/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, got := a.ask(200, "GET", "/v1/openapi.yaml", ""); got != string(described) {
		t.Error("/v1/openapi.yaml is not consumer/httpapi/openapi.yaml")
	}
	for _, want := range []string{"publish 202", "publish 400", "publish 401", "publish 403", "publish 404", "publish 413", "publish 415", "state 200", "state 400", "state 401", "state 404", "openapi 200", "openapi 401"} {
		if !a.seen[want] {
			t.Errorf("the answer %s was not seen", want)
		}
	}
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
}

// TestAPIWithoutItsBroker stops the node: what is accepted is in the queue, and what is
// not accepted is refused with words and a time.
func TestAPIWithoutItsBroker(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewNode(t)
	ledger := t.TempDir() + "/ledger"
	d := start(t, apiQueue(v, "orders", "read -r id; echo $id >> "+ledger)...)
	a := newCheckedAPI(t, d)
	if header, _ := a.ask(202, "POST", "/v1/queues/orders", `"before"`); header.Get("Location") != "" {
		t.Errorf("got the Location %q, though no states are kept", header.Get("Location"))
	}
	a.ask(501, "GET", "/v1/messages/before", "")

	if err := v.Node.Stop(); err != nil {
		t.Fatal(err)
	}
	if header, text := a.ask(503, "POST", "/v1/queues/orders", `"meanwhile"`); header.Get("Retry-After") == "" || !strings.Contains(text, "not accepted") {
		t.Errorf("got %v and %q", header, text)
	}
	if err := v.Node.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 30*time.Second, func() bool { return strings.Count(d.log.String(), "msg=consuming") == 2 }, "the queue is consumed again")
	a.ask(202, "POST", "/v1/queues/orders", `"after"`)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return len(lines(t, ledger)) >= 2 && v.Unacked(t, "orders") == 0 }, "both are done")
	if got := strings.Join(lines(t, ledger), " "); got != `"before" "after"` {
		t.Errorf("done: %s, want before and after", got)
	}
}
