package broker

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"regexp"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestDocumentedQueues holds the pages that operators declare queues by to what is
// declared.
func TestDocumentedQueues(t *testing.T) {
	var page []byte
	for _, path := range []string{"../../../docs/queues.md", "../../../docs/schedules.md"} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		page = append(page, content...)
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
	for name, args := range map[string]amqp.Table{
		"emails": q.arguments(), "emails.dead": q.deadLetterArguments(), q.WaitName(4 * time.Second): q.waitArguments(4 * time.Second),
		"warren.schedule.nightly": TokenArguments(),
	} {
		want[name] = map[string]any{}
		for k, v := range args {
			if n, ok := v.(int64); ok {
				v = float64(n) // as JSON has it
			}
			want[name][k] = v
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("documented are\n%v, declared are\n%v", got, want)
	}
}
