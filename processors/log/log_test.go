package log_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	warrenlog "github.com/warrenmq/warren/processors/log"
	"github.com/warrenmq/warren/processors/registry"
)

func TestLogsTheFactsAndNothingElse(t *testing.T) {
	p, err := new(warrenlog.Config).Open(registry.Queue{Name: "orders", Concurrency: 8}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	_, err = consumertest.RunLog(t.Context(), p, consumer.Delivery{
		Queue:       "orders",
		MessageID:   "4711",
		Type:        "order.created",
		ContentType: "application/json",
		Attempt:     2,
		Body:        []byte(`{"card":"secret"}`),
		Headers:     map[string]any{"tenant": "secret", "x-retry": int64(1)},
	}, slog.New(slog.NewJSONHandler(&out, nil)))
	if got := consumertest.Verdict(err); got != "ack" {
		t.Errorf("verdict %s (%v), want ack", got, err)
	}
	if strings.Contains(out.String(), "secret") {
		t.Errorf("logged %s, want nothing of the body or the values of headers", &out)
	}
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("logged %s, want one line of JSON: %v", &out, err)
	}
	delete(got, "time")
	want := map[string]any{
		"level": "INFO", "msg": "delivery", "queue": "orders", "message_id": "4711", "attempt": 2.0,
		"type": "order.created", "content_type": "application/json", "body_bytes": 17.0,
	}
	if headers, ok := got["headers"].([]any); !ok || len(headers) != 2 || headers[0] != "tenant" || headers[1] != "x-retry" {
		t.Errorf("logged the headers %v, want their names, sorted", got["headers"])
	}
	delete(got, "headers")
	if !maps.Equal(got, want) {
		t.Errorf("logged %v, want %v", got, want)
	}
}

func TestNamesOfHeadersAreBounded(t *testing.T) {
	p, err := new(warrenlog.Config).Open(registry.Queue{Name: "orders", Concurrency: 1}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	headers := make(map[string]any)
	for i := range 8000 {
		headers[fmt.Sprintf("%04d%s", i, strings.Repeat("x", 200))] = nil
	}
	var out bytes.Buffer
	if _, err := consumertest.RunLog(t.Context(), p, consumer.Delivery{Headers: headers}, slog.New(slog.NewJSONHandler(&out, nil))); err != nil {
		t.Error(err)
	}
	if out.Len() > 10_000 || !strings.Contains(out.String(), `"0031xxx`) || !strings.Contains(out.String(), `"more_headers":7968`) {
		t.Errorf("logged %d bytes, %.300s, want the first 32 names and the number of the others", out.Len(), &out)
	}
}
