package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestRetriesWaitInTheBroker fails one message three times on a queue with a
// single slot: its waits double, and the slot works others meanwhile.
func TestRetriesWaitInTheBroker(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	attempts, others := newLedger(), newLedger()
	run(t, []string{v.URL}, Queue{Name: "orders", Concurrency: 1, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		if d.MessageID != "failing" {
			others.write(d)
			return nil
		}
		attempts.write(d)
		if d.Attempt < 4 {
			return fmt.Errorf("failure %d", d.Attempt)
		}
		if got := d.Headers["x-warren-error"]; got != "failure 3" {
			t.Errorf("the last attempt sees the error %q, want failure 3", got)
		}
		return nil
	})})

	v.Publish(t, "orders", amqp.Publishing{MessageId: "failing"})
	sent := 0
	rabbittest.Eventually(t, 15*time.Second, func() bool {
		v.Publish(t, "orders", amqp.Publishing{MessageId: "other-" + strconv.Itoa(sent)})
		sent++
		return len(attempts.of("failing")) == 4
	}, "the message has had its fourth attempt")

	at := attempts.of("failing")
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		got := at[i+1].Sub(at[i])
		if got < want || got > want+rabbittest.Soon {
			t.Errorf("wait %d took %v, want %v and little more", i+1, got, want)
		}
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { n, _ := others.counts(); return n == sent }, "the others are done")
	// Between two attempts some of them were: the one slot was free. A busy machine can stand
	// still for one of the waits.
	between := 0
	for n := range sent {
		if done := others.of("other-" + strconv.Itoa(n))[0]; done.After(at[0]) && done.Before(at[3]) {
			between++
		}
	}
	if between == 0 {
		t.Error("no other message was done in any of the waits")
	}
	empty(t, v, "orders", "orders.dead", "warren.wait.orders.1s")
	// What is published late takes the next shorter wait: there may be no queue for the longer ones.
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		return v.Ready(t, "warren.wait.orders.2s") <= 0 && v.Ready(t, "warren.wait.orders.4s") <= 0
	}, "nothing is left in the longer waits")
}

// empty checks that nothing is ready or unacknowledged in the queues.
func empty(t *testing.T, v *rabbittest.Vhost, queues ...string) {
	t.Helper()
	for _, q := range queues {
		rabbittest.Eventually(t, 10*time.Second, func() bool {
			return v.Ready(t, q) == 0 && v.Unacked(t, q) == 0 && v.Ready(t, q) == 0 // one may be requeued between two looks
		}, "queue "+q+" is empty")
	}
}

func TestRetryAfterIsNoSoonerThanAsked(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	attempts := newLedger()
	run(t, []string{v.URL}, Queue{Name: "hooks", Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		attempts.write(d)
		if d.Attempt == 1 {
			return RetryAfter(errors.New("429 Too Many Requests"), 3300*time.Millisecond) // 2 s + 1 s in the broker, the rest in the process
		}
		return nil
	})})
	v.Publish(t, "hooks", amqp.Publishing{MessageId: "m"})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return len(attempts.of("m")) == 2 }, "the second attempt")
	at := attempts.of("m")
	if got := at[1].Sub(at[0]); got < 3300*time.Millisecond || got > 3300*time.Millisecond+rabbittest.Soon {
		t.Errorf("the second attempt came after %v, want 3.3 s and little more", got)
	}
}

func TestDelayedMessagesAreParkedOnArrival(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	seen := newLedger()
	var attempt, delayed any
	run(t, []string{v.URL}, Queue{Name: "later", Concurrency: 1, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		if d.MessageID == "delayed" {
			attempt, delayed = d.Attempt, d.Headers["x-warren-original-x-delay"]
		}
		seen.write(d)
		return nil
	})})
	start := time.Now()
	v.Publish(t, "later",
		amqp.Publishing{MessageId: "delayed", Headers: amqp.Table{"x-delay": int32(2000)}, Expiration: "100"},
		amqp.Publishing{MessageId: "not before", Headers: amqp.Table{"x-warren-not-before": time.Now().Add(1200 * time.Millisecond).UnixMilli()}},
		amqp.Publishing{MessageId: "now"})
	rabbittest.Eventually(t, 10*time.Second, func() bool { n, _ := seen.counts(); return n == 3 }, "all three are done")
	for id, want := range map[string]time.Duration{"now": 0, "not before": 1200 * time.Millisecond, "delayed": 2 * time.Second} {
		got := seen.of(id)[0].Sub(start)
		if got < want-time.Millisecond || got > want+rabbittest.Soon {
			t.Errorf("message %q was done after %v, want %v to 600 ms more", id, got, want)
		}
	}
	equal(t, attempt, any(1))
	equal(t, delayed, any(int32(2000)))
}

func TestResultsGoToReplyTo(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	log := run(t, []string{v.URL}, Queue{Name: "sums", Processor: JSON(func(_ context.Context, n []int, s *Scope) error {
		sum := 0
		for _, n := range n {
			sum += n
		}
		s.SetResult(Result{Body: []byte(strconv.Itoa(sum))})
		return nil
	})}).log
	v.Declare(t, "answers", nil)
	v.Publish(t, "sums",
		amqp.Publishing{Body: []byte(`[1,2,3]`), ReplyTo: "answers", CorrelationId: "c-1"},
		amqp.Publishing{Body: []byte(`[4]`), ReplyTo: "nobody", CorrelationId: "c-2"})
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "answers") == 1 }, "the answer is there")
	answer := v.Drain(t, "answers")[0]
	equal(t, []string{string(answer.Body), answer.CorrelationId, answer.ContentType}, []string{"6", "c-1", "application/json"})
	rabbittest.Eventually(t, 40*time.Second, func() bool { return contains(log, "nobody waits for the result any more") }, "the missing queue is logged")
	empty(t, v, "sums", "sums.dead")
}

// TestMessageWithoutAnIDIsGivenOne follows such a message over its attempts: it is
// called the same from the first on.
func TestMessageWithoutAnIDIsGivenOne(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	ids := make(chan string, 3)
	run(t, []string{v.URL}, Queue{Name: "orders", MaxAttempts: 2, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		ids <- d.MessageID
		return errors.New("no")
	})})
	v.Publish(t, "orders", amqp.Publishing{})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "orders.dead") == 1 }, "the message is dead-lettered")
	first, second, dead := <-ids, <-ids, v.Drain(t, "orders.dead")[0].MessageId
	if first == "" || second != first || dead != first {
		t.Errorf("the ids are %q, %q and, dead-lettered, %q", first, second, dead)
	}
}

// TestAWaitQueueThatLacksItsTTL has a wait queue as RabbitMQ 3.10 leaves one whose declaration
// was interrupted: its arguments are right, but what comes to it would never fall due.
func TestAWaitQueueThatLacksItsTTL(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	attempts := newLedger()
	r := run(t, []string{v.URL}, Queue{Name: "orders", Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		attempts.write(d)
		if d.Attempt == 1 {
			return errors.New("failed")
		}
		return nil
	})})
	v.Publish(t, "orders", amqp.Publishing{MessageId: "declares"})
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return len(attempts.of("declares")) == 2 }, "the wait queue is there, and works")
	if _, err := v.Node.Eval(fmt.Sprintf(`
		{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"warren.wait.orders.1s">>)),
		{Name, _} = amqqueue:get_pid(Q),
		ok = rabbit_fifo_client:update_machine_state(amqqueue:get_pid(Q), #{name => Name, queue_resource => amqqueue:get_name(Q),
			dead_letter_handler => at_least_once, overflow_strategy => reject_publish, delivery_limit => 1000000, created => 0,
			become_leader_handler => {rabbit_quorum_queue, become_leader, [amqqueue:get_name(Q)]}})`, v.Name)); err != nil {
		t.Fatal(err)
	}
	v.Publish(t, "orders", amqp.Publishing{MessageId: "waits"})
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return len(attempts.of("waits")) == 2 }, "what waits comes home")

	// And it does not expire there.
	v.Publish(t, "orders", amqp.Publishing{MessageId: "home"})
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return len(attempts.of("home")) == 1 }, "it has failed")
	_, _ = r.end()
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders") == 1 }, "it is home")
	home := v.Drain(t, "orders")[0]
	if _, kept := home.Headers["x-warren-original-expiration"]; kept || home.Expiration != "" {
		t.Errorf("it came home with the expiration %q and the headers %v, want none of its wait", home.Expiration, home.Headers)
	}
}
