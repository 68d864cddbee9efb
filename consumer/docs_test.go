package consumer

import (
	"context"
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/waits"
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
	v.Publish(t, "orders", amqp.Publishing{CorrelationId: "c", ReplyTo: "nobody"},
		amqp.Publishing{Type: "hopeless", UserId: "guest", Headers: amqp.Table{headerRedelivered: true, broker.HeaderReplayed: int64(1)}})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return len(recorder.Ended()) == 6 }, "two attempts with a wait and a reply, and one with a dead letter")
	made := map[string]bool{}
	for _, s := range recorder.Ended() {
		for _, kv := range s.Attributes() {
			made[string(kv.Key)] = true
		}
	}
	equal(t, slices.Sorted(maps.Keys(made)), slices.Sorted(slices.Values(documented)))
}

// TestTheWayOfADeliveryIsDocumented holds the table of CONTRIBUTING.md that follows a
// delivery against the functions there are.
func TestTheWayOfADeliveryIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "## From the socket to the acknowledgement")
	table, _, _ = strings.Cut(table, "\n## ")
	steps := regexp.MustCompile("\\| `([a-z_]+\\.go)` \\| `(\\w+)` \\|").FindAllStringSubmatch(table, -1)
	if len(steps) < 15 {
		t.Errorf("the table has %d steps, want the whole way", len(steps))
	}
	for _, step := range steps {
		code, err := os.ReadFile(step[1])
		if err != nil {
			t.Error(err)
			continue
		}
		if !regexp.MustCompile(`(?m)^func \(\w \*\w+\) ` + step[2] + `\(`).Match(code) {
			t.Errorf("%s has no method %s", step[1], step[2])
		}
	}
}

// TestDocumentedOutages holds the table of docs/delays.md against the waits that there are.
func TestDocumentedOutages(t *testing.T) {
	page, err := os.ReadFile("../docs/delays.md")
	if err != nil {
		t.Fatal(err)
	}
	settings := regexp.MustCompile("`RETRY_BASE=(\\w+)`, `RETRY_MAX=(\\w+)`").FindAllStringSubmatch(string(page), -1)
	duration := func(text string) time.Duration {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Errorf("docs/delays.md: %v", err)
		}
		return d
	}
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| (\w+) \| (\w+) \| (\w+) \|$`).FindAllStringSubmatch(string(page), -1)
	if len(settings) != 3 || len(rows) < 5 {
		t.Fatalf("got %d settings and %d rows", len(settings), len(rows))
	}
	for _, row := range rows {
		most, _ := strconv.Atoi(row[1])
		for i, s := range settings {
			var want time.Duration
			for attempts := 1; attempts < most; attempts++ {
				want += waits.Backoff(duration(s[1]), duration(s[2]), attempts)
			}
			if got := duration(row[2+i]); got != want {
				t.Errorf("MAX_ATTEMPTS=%d with %s: got %v, want %v", most, s[0], got, want)
			}
		}
	}
	defaults := Config{Queues: []Queue{{}}}.withDefaults().Queues[0]
	if want := "The default is " + strconv.Itoa(defaults.MaxAttempts) + " attempts from 1 s on, capped at an hour"; !strings.Contains(string(page), want) ||
		defaults.RetryBase != time.Second || defaults.RetryMax != time.Hour {
		t.Errorf("docs/delays.md lacks %q", want)
	}
}
