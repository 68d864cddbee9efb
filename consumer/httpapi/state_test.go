package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/state"
)

func TestState(t *testing.T) {
	world, api := newAPI(t, false)
	at := time.Date(2026, 11, 21, 8, 0, 0, 123e6, time.FixedZone("", 3600))
	of := func(tr consumer.Transition, bytes int) state.Message {
		tr.MessageID, tr.Queue, tr.At = "m", "orders", at
		return state.Message{Transition: tr, ResultBytes: bytes}
	}
	const head = `{"message_id":"m","queue":"orders","state":`
	const when = `"updated_at":"2026-11-21T07:00:00.123Z"`
	for _, test := range []struct {
		state      state.Message
		want       string
		retryAfter string
	}{
		{of(consumer.Transition{State: consumer.Accepted}, 0), head + `"accepted","attempt":0,` + when + `}`, "1"},
		{of(consumer.Transition{State: consumer.Waiting, Attempt: 2, Due: at.Add(time.Hour), Error: "no"}, 0),
			head + `"waiting","attempt":2,` + when + `,"due_at":"2026-11-21T08:00:00.123Z","error":"no"}`, ""},
		{of(consumer.Transition{State: consumer.Processing, Attempt: 1}, 0), head + `"processing","attempt":1,` + when + `,"progress":{"percent":0}}`, "1"},
		{of(consumer.Transition{State: consumer.Processing, Attempt: 1, Percent: 40, Text: "<half>"}, 0),
			head + `"processing","attempt":1,` + when + `,"progress":{"percent":40,"text":"\u003chalf\u003e"}}`, "1"},
		{of(consumer.Transition{State: consumer.Processing, Attempt: 1, Redelivered: true}, 0), head + `"processing","attempt":1,"redelivered":true,` + when + `,"progress":{"percent":0}}`, "1"},
		{of(consumer.Transition{State: consumer.Dead, Attempt: 8, Reason: "exhausted", Error: "no"}, 0),
			head + `"dead","attempt":8,` + when + `,"reason":"exhausted","error":"no"}`, "none"},
		{of(consumer.Transition{State: consumer.Succeeded, Attempt: 1, Result: consumer.Result{Body: []byte(" {\"a\": [1]}\n")}}, 12),
			head + `"succeeded","attempt":1,` + when + `,"result":{"content_type":"application/json","bytes":12,"json":{"a":[1]}}}`, "none"},
		{of(consumer.Transition{State: consumer.Succeeded, Attempt: 1, Result: consumer.Result{ContentType: "text/plain", Body: []byte("ok")}}, 2),
			head + `"succeeded","attempt":1,` + when + `,"result":{"content_type":"text/plain","bytes":2,"base64":"b2s="}}`, "none"},
		{of(consumer.Transition{State: consumer.Succeeded, Attempt: 1, Result: consumer.Result{Body: []byte("{no JSON")}}, 8),
			head + `"succeeded","attempt":1,` + when + `,"result":{"content_type":"application/json","bytes":8,"base64":"e25vIEpTT04="}}`, "none"},
		{of(consumer.Transition{State: consumer.Succeeded, Attempt: 1}, 300000),
			head + `"succeeded","attempt":1,` + when + `,"result":{"content_type":"application/json","bytes":300000}}`, "none"},
	} {
		world.states["m"] = test.state
		w := ask(t, api, "GET", "/v1/messages/m", nil)
		if got := strings.TrimSpace(w.Body.String()); w.Code != http.StatusOK || got != test.want {
			t.Errorf("got %d and\n%s, want 200 and\n%s", w.Code, got, test.want)
		}
		switch got := w.Header().Get("Retry-After"); test.retryAfter {
		case "none":
			if got != "" {
				t.Errorf("%s: got the Retry-After %q, want none", test.state.State, got)
			}
		case "": // it depends on the time
			if got == "" {
				t.Errorf("%s: there is no Retry-After", test.state.State)
			}
		default:
			if got != test.retryAfter {
				t.Errorf("%s: got the Retry-After %q, want %q", test.state.State, got, test.retryAfter)
			}
		}
	}
	for path, status := range map[string]int{"/v1/messages/m?queue=orders": 200, "/v1/messages/m?queue=emails": 404, "/v1/messages/unknown": 404, "/v1/messages/": 404, "/v1/messages/a/b": 404} {
		if w := ask(t, api, "GET", path, nil); w.Code != status {
			t.Errorf("%s: got %d, want %d", path, w.Code, status)
		}
	}
	world.storeAway = true
	if w := ask(t, api, "GET", "/v1/messages/m", nil); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("without the database: got %d, %v and %s, want 503 and nothing of the error", w.Code, w.Header(), w.Body)
	}
	_, stateless := newAPI(t, true)
	if w := ask(t, stateless, "GET", "/v1/messages/m", nil); w.Code != http.StatusNotImplemented || !strings.Contains(w.Body.String(), "set WARREN_DATABASE_URL") {
		t.Errorf("where no states are kept: got %d and %q, want 501 and what to set", w.Code, w.Body)
	}
}

func TestStateRefuses(t *testing.T) {
	_, api := newAPI(t, false)
	for path, status := range map[string]int{
		"/v1/messages/m?queue=%00": 400, "/v1/messages/m?queue=%ff": 400, "/v1/messages/%00": 404, "/v1/messages/%ff": 404,
	} {
		if w := ask(t, api, "GET", path, nil); w.Code != status {
			t.Errorf("%s: got %d and %q, want %d", path, w.Code, w.Body, status)
		}
	}
}
