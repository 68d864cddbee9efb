package consumer

import (
	"context"
	"log/slog"
	"strings"
	"testing"
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
