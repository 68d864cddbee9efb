package consumer

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestDocumentedQueues holds docs/queues.md, which operators declare queues by, to
// what is declared.
func TestDocumentedQueues(t *testing.T) {
	page, err := os.ReadFile("../docs/queues.md")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]map[string]any{}
	for _, block := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllSubmatch(page, -1) {
		var queues map[string]map[string]any
		if err := json.Unmarshal(block[1], &queues); err != nil {
			t.Fatal(err)
		}
		maps.Copy(got, queues)
	}
	q := Queue{Name: "emails", Type: Quorum}
	want := map[string]map[string]any{}
	for name, args := range map[string]amqp.Table{"emails": q.arguments(), "emails.dead": q.deadLetterArguments(), waitName(4 * time.Second): waitArguments(4 * time.Second)} {
		want[name] = map[string]any{}
		for k, v := range args {
			if n, ok := v.(int64); ok {
				v = float64(n) // as JSON has it
			}
			want[name][k] = v
		}
	}
	equal(t, got, want)
}
