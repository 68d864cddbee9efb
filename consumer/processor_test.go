package consumer

import (
	"context"
	"encoding/json"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"
)

// encoding/json would put a replacement character in place of what is not UTF-8.
func TestJSONIsUTF8(t *testing.T) {
	p := JSON(func(context.Context, map[string]string, *Scope) error { return nil })
	for body, want := range map[string]string{`{"name": "Grüße"}`: "ack", "{\"name\": \"Gr\xfc\xdfe\"}": "dead"} {
		_, err := Try(t.Context(), p, Delivery{Body: []byte(body)}, slog.New(slog.DiscardHandler))
		if got := VerdictOf(err); got != want || err != nil && !strings.Contains(err.Error(), "not UTF-8") {
			t.Errorf("%q: got %s (%v), want %s", body, got, err, want)
		}
	}
}

// What a message decodes to is what encoding/json makes of it.
func TestJSONAsTheStandardLibrary(t *testing.T) {
	type message struct {
		Name  string         `json:"name"`
		Count int            `json:"count"`
		More  map[string]any `json:"more"`
		At    *time.Time     `json:"at"`
		As    json.Marshaler `json:"as"`
	}
	deep := strings.Repeat(`{"more":`, 100_000) + "{}" + strings.Repeat("}", 100_000)
	for _, body := range []string{
		`{"NAME": "x", "Count": 1, "unknown": [1]}`, `{"name": "a", "name": "b"}`, `null`, `{"count": null}`, `{"more": {"n": 1.5, "l": [null]}}`,
		`{"at": "2026-02-28T24:00:00Z"}`, `{"at": "2026-02-28T04:00:00,5Z"}`, `{"at": "2026-02-28T4:00:00Z"}`, `{"at": 1}`, `{"as": null}`, `{"as": {}}`,
		``, `{`, `{} {}`, `{"count": 1.5}`, `{"count": "1"}`, `{"count": 1e400}`, `[]`, deep, strings.Repeat("[", 1<<20), strings.Repeat("\x00", 1<<20),
	} {
		var want, got message
		wantErr := json.Unmarshal([]byte(body), &want)
		_, err := Try(t.Context(), JSON(func(_ context.Context, m message, _ *Scope) error { got = m; return nil }), Delivery{Body: []byte(body)}, slog.New(slog.DiscardHandler))
		if (err == nil) != (wantErr == nil) || err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%.60q: got %+v and error %.200v, want %+v and %.200v", body, got, err, want, wantErr)
		}
		if err != nil && VerdictOf(err) != "dead" {
			t.Errorf("%.60q: got %s, want dead", body, VerdictOf(err))
		}
	}
}
