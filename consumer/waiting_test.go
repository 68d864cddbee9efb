package consumer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/consumer/operator/filter"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// What waits for tomorrow can be had today, with the attempts that it has made, and its priority.
func TestWhatWaitsIsReleased(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	var mu sync.Mutex
	attempts := make(map[string][]string)
	r := run(t, []string{v.URL}, Queue{Name: "orders", RetryBase: time.Hour, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		mu.Lock()
		defer mu.Unlock()
		attempts[d.MessageID] = append(attempts[d.MessageID], fmt.Sprintf("%d/%d", d.Attempt, d.Priority))
		if d.MessageID == "fails" && d.Attempt == 1 {
			return errors.New("no stock")
		}
		return nil
	})})
	v.PublishN(t, "orders", 4, func(i int) amqp.Publishing {
		return amqp.Publishing{MessageId: fmt.Sprintf("later-%d", i), Priority: 3, Type: "report", Headers: amqp.Table{"x-delay": int64(3_600_000 * (i + 1))}}
	})
	v.Publish(t, "orders", amqp.Publishing{MessageId: "fails"})
	b := operator.Broker{Nodes: []string{v.URL}}
	picked := func(text string) operator.Selection {
		f, err := filter.Parse(text, operator.WaitingFields)
		if err != nil {
			t.Fatal(err)
		}
		return operator.Selection{Filter: f}
	}
	waits := func(text string) (ids string) {
		found, err := b.Waiting(t.Context(), []string{"orders"}, picked(text), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range found.Messages {
			ids += w.MessageID + " "
		}
		return ids
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return len(strings.Fields(waits(""))) == 5 }, "all wait")
	equal(t, waits("in > 150m and type = report"), "later-2 later-3 ")
	equal(t, waits("attempts = 1 and error ~ stock"), "fails ")
	few := picked("type = report")
	few.Most = 1
	found, err := b.Waiting(t.Context(), []string{"orders"}, few, 0)
	if err != nil || len(found.Messages) != 1 || found.Messages[0].MessageID != "later-0" || found.Matched != 4 || time.Until(found.Last) < 3*time.Hour {
		t.Errorf("the next due: got %+v and error %v", found, err)
	}

	// As if a release had been killed between its publish and its acknowledgement: the message
	// is in its queue already, and is not worked again.
	ch := v.Channel(t)
	var d amqp.Delivery
	for d.MessageId != "fails" {
		next, ok, err := ch.Get("warren.wait.orders.1024s", false)
		if err != nil || !ok {
			t.Fatalf("got %t and error %v, want the one that fails", ok, err)
		}
		d = next
	}
	first := amqp.Publishing{MessageId: d.MessageId, UserId: d.UserId, Headers: d.Headers, DeliveryMode: amqp.Persistent, Body: d.Body}
	delete(first.Headers, "x-warren-not-before")
	v.Publish(t, "orders", first)
	if err := d.Nack(true, true); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { mu.Lock(); defer mu.Unlock(); return len(attempts[d.MessageId]) == 2 }, "it is worked")
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return len(strings.Fields(waits(""))) == 5 }, "what was looked at is back")

	told := 0
	done, err := b.Release(t.Context(), "orders", picked("in > 150m or attempts > 0"), func(operator.Done) { told++ })
	if err != nil || done.Matched != 3 || done.Done != 3 || done.Left != 0 || told < 3 {
		t.Errorf("got %+v and error %v, told %d times", done, err, told)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(attempts) == 3 && len(attempts["fails"]) == 2
	}, "those that were released are worked")
	equal(t, waits(""), "later-0 later-1 ")
	mu.Lock()
	equal(t, fmt.Sprint(attempts), "map[fails:[1/0 2/0] later-2:[1/3] later-3:[1/3]]")
	mu.Unlock()
	_, _ = r.end()
	empty(t, v, "orders", "orders.dead")
}

func TestWhatWaitsIsDropped(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	run(t, []string{v.URL}, Queue{Name: "orders", RetryBase: time.Hour, Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return errors.New("no stock") })})
	v.PublishN(t, "orders", 3, func(i int) amqp.Publishing { return amqp.Publishing{MessageId: fmt.Sprint(i), Body: []byte("{}")} })
	b := operator.Broker{Nodes: []string{v.URL}}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool {
		found, err := b.Waiting(t.Context(), []string{"orders"}, operator.Selection{}, 0)
		return err == nil && len(found.Messages) == 3
	}, "all wait")
	done, err := b.Drop(t.Context(), "orders", operator.Selection{IDs: []string{"1", "2"}, Most: 1}, func(operator.Done) {})
	if err != nil || done.Done != 1 {
		t.Errorf("got %+v and error %v", done, err)
	}
	var dead []string
	if _, err := b.Letters(t.Context(), "orders", operator.Selection{}, func(l *operator.Letter) error {
		if text := fmt.Sprint(l.Properties(), l.Headers()); strings.Contains(text, "expiration") {
			t.Errorf("got %s, want no expiration of the wait", text)
		}
		dead = append(dead, fmt.Sprint(l.ID, " ", l.Reason, " ", l.Attempts, " ", l.Error))
		return nil
	}); err != nil || len(dead) != 1 || !strings.HasSuffix(dead[0], " dropped 1 somebody dropped it while it waited; its last error: no stock") {
		t.Errorf("got %q and error %v", dead, err)
	}
	var archive archiveBuffer
	done, err = b.DiscardWaiting(t.Context(), "orders", operator.Selection{}, &archive, func(operator.Done) {})
	if err != nil || done.Done != 2 || strings.Count(archive.String(), "\n") != 2 || strings.Contains(archive.String(), "expiration") || archive.syncs == 0 {
		t.Errorf("got %+v, error %v and %s", done, err, archive.String())
	}
	found, err := b.Waiting(t.Context(), []string{"orders"}, operator.Selection{}, 0)
	if err != nil || len(found.Messages) != 0 {
		t.Errorf("got %+v and error %v, want nothing that waits", found, err)
	}
}

type archiveBuffer struct {
	bytes.Buffer
	syncs int
}

func (a *archiveBuffer) Sync() error { a.syncs++; return nil }
