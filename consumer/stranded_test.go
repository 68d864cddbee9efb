package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestWhatHasLostItsQueueIsKeptCountedAndComesHome deletes the queue of 40 messages that
// wait, more than the broker moves at once, while its worker may declare nothing; and
// then has a worker that may.
func TestWhatHasLostItsQueueIsKeptCountedAndComesHome(t *testing.T) {
	const messages, wait = 40, 16 * time.Second
	v := rabbittest.NewVhost(t)
	setEnv(t, v, "dead_letter_worker_publisher_confirm_timeout", "3000", "180000")
	declareAll(t, v, "lost")
	reader := metric.NewManualReader()
	worked, failing := newLedger(), errors.New("fails once")
	q := Queue{Name: "lost", Passive: true, Unbraked: true, RetryBase: wait, RetryMax: 64 * time.Second, EnvPrefix: "WARREN_QUEUE_LOST_",
		Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
			worked.write(d)
			if d.Attempt == 1 {
				return failing
			}
			return nil
		})}
	r := runConfig(t, Config{Nodes: []string{v.URL}, Queues: []Queue{q}, Telemetry: Telemetry{MeterProvider: metric.NewMeterProvider(metric.WithReader(reader))}}, nil)
	stranded := func() int64 { return collected(t, reader)["warren.queue.stranded"] }
	due := time.Now().Add(wait) // or later
	v.PublishN(t, "lost", messages, numbered)
	rabbittest.Eventually(t, 20*time.Second, func() bool { m, _ := worked.counts(); return m == messages && v.Unacked(t, "lost") == 0 }, "all have failed once")
	equal(t, stranded(), 0)

	v.DeleteQueue(t, "lost")
	rabbittest.Eventually(t, 20*time.Second, func() bool { return stranded() > 0 }, "they are counted")
	if time.Now().Before(due) { // or some had fallen due before they were counted
		equal(t, stranded(), messages)
	}
	counted := stranded()
	line := fmt.Sprintf(`level=ERROR msg="the queue is missing, and messages wait for it; the broker keeps them, and they come home within three minutes once it is declared" queue=lost messages=%d`, counted)
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		return contains(r.log, line) && contains(r.log, "declare it as the documentation lists, or set WARREN_QUEUE_LOST_DECLARE=true")
	}, "the log has the queue, the count and the remedy: "+line)

	// When all have fallen due, no client sees them any more, but the broker has them.
	// The count stays.
	held := func() string {
		out, err := v.Node.Eval(fmt.Sprintf(`lists:sum([N || Q <- rabbit_amqqueue:list(<<"%s">>), string:prefix(element(4, amqqueue:get_name(Q)), "warren.wait.lost.") =/= nomatch,
			{_, N} <- rabbit_quorum_queue:info(Q, [messages_dlx])])`, v.Name))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	last := ""
	defer func() { t.Logf("the broker has %s of the %d", last, messages) }()
	// On a busy machine some wait 8 s first.
	rabbittest.Eventually(t, time.Minute, func() bool { last = held(); return last == fmt.Sprint(messages) }, "all have fallen due, and the broker has them")
	found, err := operator.Broker{Nodes: []string{v.URL}}.Waiting(t.Context(), []string{"lost", "nobody"}, operator.Selection{}, 100)
	equal(t, fmt.Sprint(found.Matched, found.More, found.Missing, found.Unknown, err), "0 0 [lost] [nobody] <nil>")
	equal(t, stranded(), counted)

	q.Passive = false
	other := run(t, []string{v.URL}, q)
	rabbittest.Eventually(t, time.Minute, func() bool { _, again := worked.counts(); return again == messages }, "all are home and worked")
	rabbittest.Eventually(t, 20*time.Second, func() bool { return stranded() == 0 }, "none is stranded")
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		return contains(r.log, fmt.Sprintf(`msg="the queue is there again, what waits for it comes home within three minutes" queue=lost messages=%d`, counted))
	}, "the log says that the queue is there again")
	empty(t, v, "lost", "lost.dead")
	equal(t, held(), "0")
	for i := range messages {
		equal(t, len(worked.of(fmt.Sprint(i))), 2)
	}

	// A worker that may declare its queue does so at once.
	v.DeleteQueue(t, "lost")
	rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Count(other.log.String(), "msg=consuming") >= 2 }, "the queue is back")
	v.Publish(t, "lost", amqp.Publishing{MessageId: "after"})
	rabbittest.Eventually(t, 30*time.Second, func() bool { return len(worked.of("after")) == 2 }, "it works, and its retries as well")
	if contains(other.log, "messages wait for it") {
		t.Error("a queue that was declared again counts as missing")
	}
}
