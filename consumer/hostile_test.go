package consumer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestWhatAPublisherForges is not believed of one who may write to the queue and nothing
// else, on any way that the message takes.
func TestWhatAPublisherForges(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "payments", nil)
	seen := make(chan Delivery, 10)
	run(t, []string{v.URL}, Queue{Name: "orders", MaxAttempts: 2, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		seen <- d
		return errors.New("no")
	})})
	shop := "shop-" + strings.ToLower(v.Name)
	conn, err := amqp.Dial(v.AddUser(t, shop, "pw", "^$", "^amq.default$", "^$"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	err = ch.PublishWithContext(t.Context(), "", "orders", true, false, amqp.Publishing{MessageId: "m", UserId: shop, Priority: 3, Headers: amqp.Table{
		"x-warren-attempt": int64(math.MaxInt32), "x-warren-original-user-id": "admin", "x-warren-reply-to": "payments", "x-warren-exchange": "billing",
		"x-warren-routing-key": "invoice.paid", "x-warren-original-priority": int64(9), "x-warren-error": "card declined", "x-warren-reason": "permanent",
		"x-warren-first-failed-at": int64(1), "tenant": "blue",
	}})
	if err != nil {
		t.Fatal(err)
	}
	for attempt := 1; attempt <= 2; attempt++ {
		d := <-seen
		equal(t, []any{d.Attempt, d.UserID, d.Exchange, d.RoutingKey, d.Priority}, []any{attempt, shop, "", "orders", uint8(3)})
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "orders.dead") == 1 }, "it is dead-lettered")
	dead := v.Drain(t, "orders.dead")[0]
	for name, want := range map[string]any{
		"x-warren-attempt": int64(2), "x-warren-original-user-id": shop, "x-warren-exchange": "", "x-warren-routing-key": "orders",
		"x-warren-error": "no", "x-warren-reason": "exhausted", "x-warren-reply-to": nil, "tenant": "blue",
	} {
		if got := dead.Headers[name]; got != want {
			t.Errorf("header %s of the dead letter is %v, want %v", name, got, want)
		}
	}
	equal(t, dead.Priority, uint8(3))
	equal(t, v.Ready(t, "payments"), 0)
}

// TestMessagesInTheWayOfRetries are published where only Warren publishes, or would have
// it do so: the neighbour's retries come home in time.
func TestMessagesInTheWayOfRetries(t *testing.T) {
	t.Parallel()
	const hostile = 120
	v := rabbittest.NewVhost(t)
	n, worked := newNeighbour(), newLedger()
	r := run(t, []string{v.URL}, n.queue(), Queue{Name: "open", Processor: ProcessorFunc(func(_ context.Context, d Delivery, s *Scope) error {
		worked.write(d)
		s.SetResult(Result{Body: []byte("{}")})
		return nil
	})})
	n.works(t, v)
	for _, to := range []string{"warren.wait.neighbour.1s", "warren.wait.open.1s", "warren.wait.1s", "open", "neighbour", "neighbour.dead"} {
		v.PublishN(t, "open", hostile/6, func(i int) amqp.Publishing { return amqp.Publishing{MessageId: to + fmt.Sprint(i), ReplyTo: to} })
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "open.dead") == hostile }, "all are refused")
	m, _ := worked.counts()
	equal(t, m, 0)
	// Straight into the neighbour's wait queue: they are its messages then, and nothing else.
	v.PublishN(t, "warren.wait.neighbour.1s", 40, func(i int) amqp.Publishing {
		return amqp.Publishing{MessageId: fmt.Sprint("straight ", i)}
	})
	for range 3 {
		n.works(t, v)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { m, _ := n.counts(); return m == n.sent+40 }, "those are worked, once each")
	empty(t, v, "neighbour", "neighbour.dead", "open")
	n.undisturbed(t, r)
}

// TestSessionsThatDieYoungArePaced cuts each session as soon as it is there.
func TestSessionsThatDieYoungArePaced(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	r := run(t, []string{v.URLAt(p.Addr)}, Queue{Name: "q", Processor: noop})
	last, begun := 0, time.Now()
	rabbittest.Eventually(t, time.Minute, func() bool {
		if now := strings.Count(r.log.String(), "msg=connected"); now > last {
			last = now
			p.Cut()
		}
		return last >= 6
	}, "six sessions")
	if took := time.Since(begun); took < 2*time.Second { // 0.2, 0.4, 0.8 and 1.6 s, less a fifth
		t.Errorf("six sessions within %v, want pauses between them", took)
	}
}

// TestAWaitingCopyHasNoPriority follows the priority of a message into its wait queue, to
// its next attempt and to the dead letters.
func TestAWaitingCopyHasNoPriority(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	priorities := make(chan uint8, 2)
	run(t, []string{v.URL}, Queue{Name: "orders", MaxAttempts: 2, RetryBase: 80 * time.Second, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		priorities <- d.Priority
		return errors.New("no")
	})})
	v.Publish(t, "orders", amqp.Publishing{MessageId: "m", Priority: 9})
	equal(t, <-priorities, uint8(9))
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "warren.wait.orders.64s") == 1 }, "it waits")
	waiting := v.Drain(t, "warren.wait.orders.64s")[0]
	kept, _ := broker.Integer(waiting.Headers["x-warren-original-priority"])
	equal(t, []any{waiting.Priority, kept}, []any{uint8(0), int64(9)})
	equal(t, waiting.UserId, "guest")
	// Home, ahead of time.
	delete(waiting.Headers, "x-warren-not-before")
	v.Publish(t, "orders", amqp.Publishing{MessageId: "m", UserId: waiting.UserId, Headers: waiting.Headers})
	equal(t, <-priorities, uint8(9))
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "orders.dead") == 1 }, "it is dead-lettered")
	equal(t, v.Drain(t, "orders.dead")[0].Priority, uint8(9))
}

// TestARetryAfterMoreThanAYear can be read when it comes home.
func TestARetryAfterMoreThanAYear(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	attempts := newLedger()
	run(t, []string{v.URL}, Queue{Name: "hooks", Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		attempts.write(d)
		return RetryAfter(errors.New("go away"), 400*24*time.Hour)
	})})
	v.Publish(t, "hooks", amqp.Publishing{MessageId: "m"})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "warren.wait.hooks.262144s") == 1 }, "it waits")
	waiting := v.Drain(t, "warren.wait.hooks.262144s")[0]
	v.Publish(t, "hooks", amqp.Publishing{MessageId: "m", UserId: waiting.UserId, Headers: waiting.Headers})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "warren.wait.hooks.262144s") == 1 }, "it waits again")
	equal(t, len(attempts.of("m")), 1)
	equal(t, v.Ready(t, "hooks.dead"), 0)
}

// TestDeclaringHeedsTheContext publishes to a queue that is missing over a connection
// that answers no declaration.
func TestDeclaringHeedsTheContext(t *testing.T) {
	v := rabbittest.NewVhost(t)
	conn := dial(t, v.URL)
	answer := make(chan struct{})
	defer close(answer)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := conn.Publish(ctx, broker.Outgoing{Key: "missing", Declare: func(*broker.Conn) error {
		<-answer
		return nil
	}})
	if !errors.Is(err, broker.ErrUnroutable) || ctx.Err() == nil {
		t.Errorf("got error %v, want ErrUnroutable when the context has ended", err)
	}
}
