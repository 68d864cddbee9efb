package consumer

import (
	"context"
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestDocumentedAttributes holds the table of docs/observability.md against the spans of
// messages that succeed, fail, wait, are dead-lettered and answered.
func TestDocumentedAttributes(t *testing.T) {
	page, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "### Attributes")
	table, _, _ = strings.Cut(table, "## Metrics")
	var documented []string
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, name := range regexp.MustCompile("`([a-z_.]+)`").FindAllStringSubmatch(cells[1], -1) {
			documented = append(documented, name[1])
		}
	}

	v := rabbittest.NewVhost(t)
	_, recorder := runTraced(t, v, false, Queue{Name: "orders", Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		switch {
		case d.Type == "hopeless":
			return Permanent(errors.New("no"))
		case d.Attempt == 1:
			return errors.New("no")
		}
		return nil
	})})
	v.Publish(t, "orders", amqp.Publishing{CorrelationId: "c", ReplyTo: "nobody"}, amqp.Publishing{Type: "hopeless"})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return len(recorder.Ended()) == 6 }, "two attempts with a wait and a reply, and one with a dead letter")
	made := map[string]bool{}
	for _, s := range recorder.Ended() {
		for _, kv := range s.Attributes() {
			made[string(kv.Key)] = true
		}
	}
	equal(t, slices.Sorted(maps.Keys(made)), slices.Sorted(slices.Values(documented)))
}
