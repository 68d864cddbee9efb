package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/internal/rabbittest"
)

func TestDelayedMessagesAreListed(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	failed := make(chan struct{}, 1)
	run(t, []string{v.URL},
		Queue{Name: "orders", RetryBase: 30 * time.Minute, Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error {
			failed <- struct{}{}
			return errors.New("no stock")
		})},
		Queue{Name: "mails", Processor: noop})
	v.Publish(t, "orders", amqp.Publishing{MessageId: "o-1"})
	<-failed
	due := time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
	v.Publish(t, "mails", amqp.Publishing{MessageId: "m-1", Headers: amqp.Table{"x-warren-not-before": due.UnixMilli()}})

	list := func(most int, queues ...string) []operator.WaitingMessage {
		found, err := operator.Broker{Nodes: []string{v.URL}}.Waiting(t.Context(), queues, operator.Selection{}, most)
		if err != nil || found.More != 0 || found.Missing != nil {
			t.Fatalf("got error %v, %d more and missing queues %q, want none of these", err, found.More, found.Missing)
		}
		return found.Messages
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { return len(list(10, "orders", "mails")) == 2 }, "both wait")
	all := list(1, "orders", "mails") // each is alone in its wait queue
	equal(t, all[1], operator.WaitingMessage{Queue: "mails", MessageID: "m-1", Due: due})
	equal(t, all[0], operator.WaitingMessage{Queue: "orders", MessageID: "o-1", Due: all[0].Due, Attempts: 1, Error: "no stock"})
	if in := time.Until(all[0].Due); in < 20*time.Minute || in > 30*time.Minute {
		t.Errorf("the next attempt is due in %v, want some less than 30 min", in)
	}
	equal(t, list(10, "mails"), all[1:])
	equal(t, len(list(10, "nobody")), 0)

	v.Publish(t, "mails", amqp.Publishing{MessageId: "m-2", Headers: amqp.Table{"x-warren-not-before": due.UnixMilli()}})
	rabbittest.Eventually(t, 5*time.Second, func() bool {
		found, err := operator.Broker{Nodes: []string{v.URL}}.Waiting(t.Context(), []string{"mails"}, operator.Selection{}, 1)
		return err == nil && len(found.Messages) == 1 && found.More == 1
	}, "one is listed and one is left out")
}

func TestDelayedMessagesOfABrokerThatHasNone(t *testing.T) {
	v := rabbittest.NewVhost(t)
	found, err := operator.Broker{Nodes: []string{v.URL}}.Waiting(t.Context(), []string{"orders"}, operator.Selection{}, 10)
	equal(t, fmt.Sprint(found.Matched, found.More, found.Missing, found.Unknown, err), "0 0 [] [orders] <nil>")
	if _, err := (operator.Broker{Nodes: []string{"amqp://guest:secret@127.0.0.1:1/"}}).Waiting(t.Context(), []string{"orders"}, operator.Selection{}, 10); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("without a broker: got %v, want an error", err)
	}
}

// TestLookingAtWhatWaitsChangesNothing lists 1,000 messages again and again while they
// fall due, more often than the broker's default limit of 20.
func TestLookingAtWhatWaitsChangesNothing(t *testing.T) {
	t.Parallel()
	const n = 1000
	v := rabbittest.NewVhost(t)
	done := newLedger()
	run(t, []string{v.URL}, Queue{Name: "later", Concurrency: 256, Processor: done.done()})
	due := make(map[string]time.Time)
	v.PublishN(t, "later", n, func(i int) amqp.Publishing {
		id := fmt.Sprint(i)
		due[id] = wallClock().Add(3*time.Second + time.Duration(i)*9*time.Millisecond)
		return amqp.Publishing{MessageId: id, DeliveryMode: amqp.Persistent, Headers: amqp.Table{"x-warren-not-before": due[id].UnixMilli()}}
	})
	v.Publish(t, "later", amqp.Publishing{MessageId: "stays", DeliveryMode: amqp.Persistent, Headers: amqp.Table{"x-delay": 3_600_000}})
	looks := 0
	for ; looks < 25 || time.Now().Before(due[fmt.Sprint(n-1)]); looks++ {
		if _, err := (operator.Broker{Nodes: []string{v.URL}}).Waiting(t.Context(), []string{"later"}, operator.Selection{}, n); err != nil {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { messages, _ := done.counts(); return messages == n }, "all are done")
	_, repeats := done.counts()
	equal(t, repeats, 0)
	equal(t, v.Ready(t, "later.dead"), 0)
	waiting, err := operator.Broker{Nodes: []string{v.URL}}.Waiting(t.Context(), []string{"later"}, operator.Selection{}, n)
	if err != nil || len(waiting.Messages) != 1 {
		t.Errorf("got %v and error %v, want the one that is not due", waiting, err)
	}
	var latest time.Duration
	for id, at := range due {
		late := done.of(id)[0].Sub(at)
		latest = max(latest, late)
		if late < -time.Millisecond || late > rabbittest.Soon {
			t.Errorf("message %s: %v late, want 0 s and little more", id, late)
		}
	}
	t.Logf("%d looks; the latest message was %v late", looks, latest.Round(time.Millisecond))
}

// A wait queue may be without a leader for a moment, as when it is just declared: whoever
// looks then is made to wait and not sent away.
func TestLookingAtWaitQueuesWithoutLeader(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	run(t, []string{v.URL}, Queue{Name: "later", Processor: newLedger().done()})
	v.Publish(t, "later", amqp.Publishing{MessageId: "m", Headers: amqp.Table{"x-delay": 1_100_000}})
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		found, err := operator.Broker{Nodes: []string{v.URL}}.Waiting(t.Context(), []string{"later"}, operator.Selection{}, 0)
		return err == nil && len(found.Messages) == 1
	}, "the message waits")
	restore := v.LoseLeader(t, "warren.wait.later.1024s")
	got := make(chan string, 1)
	go func() {
		found, err := operator.Broker{Nodes: []string{v.URLAt(p.Addr)}}.Waiting(t.Context(), []string{"later"}, operator.Selection{}, 0)
		got <- fmt.Sprint(len(found.Messages), err)
	}()
	rabbittest.Eventually(t, 20*time.Second, func() bool { return p.Accepted() >= 3 }, "it has looked again") // the first looks for wait queues
	restore()
	equal(t, <-got, "1 <nil>")
}

// wallClock is the time of the clock that headers are written by. One that was also looked
// up on the other, the monotonic one, may differ from it: by as long as the process was
// not let run between the two looks.
func wallClock() time.Time { return time.Now().Round(0) }

// TestTenThousandDelays has 10,000 messages wait from 1 s to 20 s, and restarts the node
// meanwhile. What is due while it is down, or within 5 s after it is up again, when all
// of that comes at once, may come that much later, and three minutes more: so often the
// broker tries again what its restart has met on the way home.
func TestTenThousandDelays(t *testing.T) {
	t.Parallel()
	const n = 10_000
	node, err := rabbittest.Start(t.Context(), rabbittest.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Kill)
	url := node.URL("/")
	done := newLedger()
	run(t, []string{url}, Queue{Name: "later", Concurrency: 256, Processor: done.done()})

	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	due, delays := make(map[string]time.Time, n), make(map[string]time.Duration, n)
	for i := range n {
		delay := time.Second + time.Duration(i*7919%n)*19*time.Second/n
		id := fmt.Sprint(i)
		delays[id] = delay
		due[id] = wallClock().Add(delay)
		err := ch.Publish("", "later", true, false, amqp.Publishing{
			MessageId: id, DeliveryMode: amqp.Persistent, Headers: amqp.Table{"x-warren-not-before": due[id].UnixMilli()},
		})
		if err != nil {
			t.Fatal(err)
		}
		if i%10 == 9 {
			<-time.After(5 * time.Millisecond) // 2,000/s: the worker is to keep up with them
		}
	}
	<-time.After(time.Second) // for the last to be parked
	down := time.Now()
	if err := node.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	up := time.Now().Add(5 * time.Second)
	rabbittest.Eventually(t, 10*time.Minute, func() bool { messages, _ := done.counts(); return messages == n }, "all are done")

	var latest, latestOfAll time.Duration
	for id, at := range due {
		late := done.of(id)[0].Sub(at)
		latestOfAll = max(latestOfAll, late)
		if at.After(down.Add(-rabbittest.Soon)) && at.Before(up) { // a busy worker was behind when it began
			late -= up.Sub(at) + 3*time.Minute
		} else {
			latest = max(latest, late)
		}
		if allowed := 3*rabbittest.Soon + delays[id]/20; late > allowed || done.of(id)[0].Before(at.Add(-time.Millisecond)) {
			t.Errorf("message %s, due %v after the restart began: %v late, want 0 s to %v", id, at.Sub(down), late, allowed)
		}
	}
	_, repeats := done.counts()
	t.Logf("down for %v; the latest was %v late, and of all that the restart held up %v; %d repeats",
		up.Add(-5*time.Second).Sub(down).Round(time.Millisecond), latest.Round(time.Millisecond), latestOfAll.Round(time.Millisecond), repeats)
}

// TestADelayOfManyWaits has 7 s waited in queues of 4, 2 and 1 s.
func TestADelayOfManyWaits(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	done := newLedger()
	run(t, []string{v.URL}, Queue{Name: "later", Processor: done.done()})
	begin := time.Now()
	v.Publish(t, "later", amqp.Publishing{MessageId: "m", Headers: amqp.Table{"x-delay": "7000"}})
	rabbittest.Eventually(t, 15*time.Second, func() bool { return len(done.of("m")) == 1 }, "it is done")
	if took := done.of("m")[0].Sub(begin); took < 7*time.Second || took > 7*time.Second+rabbittest.Soon {
		t.Errorf("done after %v, want 7 s and little more", took)
	}
}

// TestPriorities fills a queue, has it worked one message at a time, and looks at the
// order. What that is depends on the version of the broker.
func TestPriorities(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	const n = 60
	order := func(t *testing.T, q Queue) []uint8 {
		t.Helper()
		var mu sync.Mutex
		var worked []uint8
		c := newPriorityQueue(t, v, q)
		for i := range n {
			c(uint8([]int{1, 9, 5}[i%3]))
		}
		q.Concurrency, q.Prefetch = 1, 1
		q.Processor = ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
			mu.Lock()
			defer mu.Unlock()
			if d.Priority == 5 && d.Attempt == 1 && len(worked) == n-1 {
				return errors.New("not yet")
			}
			worked = append(worked, d.Priority)
			return nil
		})
		r := run(t, []string{v.URL}, q)
		rabbittest.Eventually(t, 20*time.Second, func() bool { mu.Lock(); defer mu.Unlock(); return len(worked) == n }, "all are done")
		_, _ = r.end()
		return worked
	}
	strict := func(t *testing.T, worked []uint8) {
		t.Helper()
		for i, want := range []uint8{9, 5, 1} {
			for _, got := range worked[i*n/3 : (i+1)*n/3] {
				if got != want {
					t.Fatalf("order: got %v, want all 9, then 5, then 1", worked)
				}
			}
		}
	}
	t.Run("classic", func(t *testing.T) {
		strict(t, order(t, Queue{Name: "classic", Type: Classic, MaxPriority: 10}))
	})
	t.Run("quorum", func(t *testing.T) {
		worked := order(t, Queue{Name: "quorum"})
		urgent := 0 // of the first half; those of more than 4 are two thirds of all
		for _, p := range worked[:n/2] {
			if p > 4 {
				urgent++
			}
		}
		switch version := v.Node.Version(); {
		case strings.HasPrefix(version, "4.3."):
			strict(t, worked)
		case strings.HasPrefix(version, "4."): // two of the urgent to one of the others, while there are both
			if urgent < 19 || urgent > 21 || worked[n-1] > 4 && worked[n-2] > 4 && worked[n-3] > 4 {
				t.Errorf("order: got %v with %d urgent ones in the first half, want two of three", worked, urgent)
			}
		default: // as published
			for i, got := range worked {
				if want := []uint8{1, 9, 5}[i%3]; got != want {
					t.Fatalf("order: got %v, want that in which they were published", worked)
				}
			}
		}
		t.Logf("RabbitMQ %s: %v", v.Node.Version(), worked)
	})
}

// newPriorityQueue declares the queue, and returns what publishes to it.
func newPriorityQueue(t *testing.T, v *rabbittest.Vhost, q Queue) func(priority uint8) {
	t.Helper()
	declareQueues(t, v, Config{Nodes: []string{v.URL}, Queues: []Queue{q}}.withDefaults().Queues[0].onBroker())
	sent := 0
	return func(priority uint8) {
		sent++
		v.Publish(t, q.Name, amqp.Publishing{MessageId: fmt.Sprintf("%s-%d", q.Name, sent), Priority: priority})
	}
}
