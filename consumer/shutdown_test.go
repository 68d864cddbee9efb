package consumer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/inflight"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// held is a processor that begins its deliveries and ends them only when told.
type held struct {
	started chan string
	release chan struct{}
}

func newHeld() *held { return &held{make(chan string, 1000), make(chan struct{})} }

func (h *held) Process(_ context.Context, d Delivery, _ *Scope) error {
	h.started <- d.MessageID
	<-h.release
	return nil
}

func numbered(i int) amqp.Publishing {
	return amqp.Publishing{MessageId: strconv.Itoa(i), DeliveryMode: amqp.Persistent}
}

func TestStopFinishesWhatIsStartedAndReturnsTheRest(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	h := newHeld()
	r := runLong(t, []string{v.URL}, Queue{Name: "orders", Concurrency: 4, Prefetch: 10, Processor: h})
	v.PublishN(t, "orders", 20, numbered)
	for range 4 {
		<-h.started
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Unacked(t, "orders") == 11 }, "the prefetch is used up, and that of the first look")

	r.stop()
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "orders") == 16 && v.Unacked(t, "orders") == 4 }, "what was not started is back")
	close(h.release)
	_, err := r.end()
	equal(t, err, nil)
	equal(t, v.Ready(t, "orders"), 16)
	if want := "msg=stopped finished=4 returned=7 abandoned=0"; !contains(r.log, want) {
		t.Errorf("the log lacks %q", want)
	}
}

// TestStopThatIsSeenLate has each queue's loop be busy with its consumers when the request
// to stop comes. Nobody else uses the channel meanwhile, so that no answer of the broker
// goes astray, and the channel stays until what has been started is acknowledged.
func TestStopThatIsSeenLate(t *testing.T) {
	const loops, renewals = 12, 50
	v := rabbittest.NewVhost(t)
	var queues []Queue
	started, release := make(chan struct{}), make(chan struct{})
	for i := range loops {
		queues = append(queues, Queue{Name: fmt.Sprintf("q%d", i), Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error {
			started <- struct{}{}
			<-release
			return nil
		})})
	}
	r := runLong(t, []string{v.URL}, queues...)
	for i, q := range queues {
		v.Publish(t, q.Name, numbered(i))
		<-started
	}
	before := runtime.NumGoroutine()
	var renewed, ended sync.WaitGroup
	stopped := make(chan struct{})
	for _, l := range r.loops {
		renewed.Add(1)
		ended.Go(func() {
			done := make(chan struct{})
			l.calls <- func() {
				defer close(done)
				for i := range renewals {
					if err := l.consume(10 + i); err != nil {
						t.Errorf("consumer %d of queue %s: %v", i, l.executor.Name, err)
					}
					for range l.sub.replaced { // nothing more was published
					}
					l.sub.replaced = nil
				}
				renewed.Done()
				<-stopped
				for range 2 * renewals {
					if err := l.sub.ch.Qos(10, 0, false); err != nil {
						t.Errorf("queue %s, after the request to stop: %v", l.executor.Name, err)
						return
					}
				}
			}
			<-done
		})
	}
	renewed.Wait()
	rabbittest.Eventually(t, 5*time.Second, func() bool { return runtime.NumGoroutine() < before+loops*renewals/2 }, "consumers that were replaced leave no goroutine")
	r.stop()
	close(stopped)
	ended.Wait()
	close(release)
	_, err := r.end()
	equal(t, err, nil)
	if want := "returned=0 abandoned=0"; !contains(r.log, want) || contains(r.log, "consuming it anew") {
		t.Errorf("the log lacks %q, or has a queue consumed anew", want)
	}
	for _, q := range queues {
		empty(t, v, q.Name)
	}
}

// TestStopWhileTheQueueIsSlow finishes more after the end of the consumer than a quorum queue
// takes of a channel at once, one by one, while the queue answers nobody: it has all of it
// before the channel is closed. Here, the end of the consumer has taken long, too. A busy
// machine may need more than the longest rest for that, so that it is longer there.
func TestStopWhileTheQueueIsSlow(t *testing.T) {
	t.Parallel()
	const n = 60
	v := rabbittest.NewVhost(t)
	started, release := make(chan struct{}), make([]chan struct{}, n)
	for i := range release {
		release[i] = make(chan struct{})
	}
	r := runConfig(t, Config{Nodes: []string{v.URL}, ShutdownTimeout: time.Hour, Queues: []Queue{{
		Name: "orders", Concurrency: n, Prefetch: n, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
			started <- struct{}{}
			i, err := strconv.Atoi(d.MessageID)
			<-release[i]
			return err
		}),
	}}}, nil)
	v.PublishN(t, "orders", n, numbered)
	for range n {
		<-started
	}
	r.stop()
	l := r.loops[0]
	unsettled := func(want int) {
		t.Helper()
		rabbittest.Eventually(t, 5*time.Second, func() bool {
			return inflight.Ask(t.Context(), l.calls, func() bool { return !l.consuming() && l.sub.unsettled.Len() == want })
		}, fmt.Sprintf("the consumer has ended, and %d are unsettled", want))
	}
	unsettled(n)
	l.calls <- func() {
		l.sub.rest.Most = time.Duration(rabbittest.Slowness() * float64(5*time.Second))
		l.sub.rest.EndAsked(time.Now().Add(-time.Hour))
		l.sub.rest.Ended(time.Now())
	}
	resume := v.SuspendLeader(t, "orders")
	for i := n - 1; i > 0; i-- { // the oldest last, so that each is acknowledged by itself
		close(release[i])
		unsettled(i)
	}
	close(release[0])
	resume()
	_, err := r.end()
	equal(t, err, nil)
	empty(t, v, "orders")
}

// TestStopWhileAQueueDoesNotAnswer stops a Consumer that tries to consume such a queue. That
// it does not go on with it is no fault of the queue's.
func TestStopWhileAQueueDoesNotAnswer(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	queue := Queue{Name: "orders", Processor: noop}
	if _, err := run(t, []string{v.URL}, queue).end(); err != nil {
		t.Fatal(err)
	}
	v.SuspendLeader(t, "orders")
	r := runQueues(t, []string{v.URL}, 0, queue)
	rabbittest.Eventually(t, time.Minute, func() bool { return contains(r.log, "msg=connected") }, "it is connected")
	took, err := r.end()
	if err != nil || took > rabbittest.Soon {
		t.Errorf("stopped after %v with error %v, want soon and none", took, err)
	}
	if contains(r.log, `"cannot consume the queue, trying again" queue=orders error="context canceled"`) {
		t.Error("the log has the end of a context for a fault of the queue")
	}
}

func TestStopWithNothingToDoIsQuick(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	r := run(t, []string{v.URL}, Queue{Name: "a", Processor: noop}, Queue{Name: "b", Processor: noop})
	took, err := r.end()
	if err != nil || took > rabbittest.Soon {
		t.Errorf("stopped after %v with error %v, want soon and none", took, err)
	}
}

func TestWorkThatOutlivesTheShutdownTimeout(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	stuck, heeds := newHeld(), make(chan struct{})
	defer close(stuck.release)
	var cause error
	r := runConfig(t, Config{Nodes: []string{v.URL}, ShutdownTimeout: 500 * time.Millisecond, Queues: []Queue{
		{Name: "stuck", Processor: stuck},
		{Name: "heeds", Processor: ProcessorFunc(func(ctx context.Context, _ Delivery, _ *Scope) error {
			close(heeds)
			<-ctx.Done()
			cause = context.Cause(ctx)
			return errors.New("interrupted")
		})},
	}}, nil)
	v.Publish(t, "stuck", amqp.Publishing{MessageId: "s-1"})
	v.Publish(t, "heeds", amqp.Publishing{MessageId: "h-1"})
	<-stuck.started
	<-heeds
	took, err := r.end()
	if !errors.Is(err, ErrAbandoned) || took < 1500*time.Millisecond || took > rabbittest.Soon {
		t.Errorf("stopped after %v with %v, want ErrAbandoned after 1.5 s", took, err)
	}
	equal(t, cause, ErrShutdown)
	for _, q := range []string{"stuck", "heeds"} {
		rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, q) == 1 }, "the message is back")
		got := v.Drain(t, q)[0]
		equal(t, got.Headers["x-warren-attempt"], nil) // it cost no attempt
	}
	for _, want := range []string{"msg=stopped finished=0 returned=0 abandoned=2", "its message is requeued\" queue=stuck message_id=s-1 attempt=1"} {
		if !contains(r.log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

func TestStopWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	h := newHeld()
	r := runLong(t, []string{v.URLAt(p.Addr)}, Queue{Name: "orders", Processor: h})
	v.Publish(t, "orders", numbered(1))
	<-h.started
	p.Refuse()
	rabbittest.Eventually(t, 5*time.Second, func() bool { return contains(r.log, "connection lost") }, "the connection is lost")
	r.stop()
	rabbittest.Eventually(t, 5*time.Second, func() bool { return contains(r.log, "msg=\"stopping") }, "the daemon is stopping")
	close(h.release)
	_, err := r.end()
	equal(t, err, nil)
	if want := "msg=stopped finished=1"; !contains(r.log, want) {
		t.Errorf("the log lacks %q", want)
	}
}

func TestStopWhileTheBrokerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	r := runConfig(t, Config{Nodes: []string{v.URLAt(p.Addr)}, ShutdownTimeout: time.Second, Queues: []Queue{{Name: "orders", Processor: noop}}}, nil)
	p.Stall(rabbittest.BothWays)
	took, err := r.end()
	if err != nil || took > rabbittest.Soon {
		t.Errorf("stopped after %v with %v, want none, soon after the shutdown timeout", took, err)
	}
}

// TestStopWhileTheBrokerFallsSilent has the broker answer nothing any more once it has ended
// the consumer: what is finished then cannot be acknowledged.
func TestStopWhileTheBrokerFallsSilent(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	h := newHeld()
	r := runConfig(t, Config{Nodes: []string{v.URLAt(p.Addr) + "?heartbeat=60"}, ShutdownTimeout: 2 * rabbittest.Soon, Queues: []Queue{{Name: "orders", Processor: h}}}, nil)
	v.Publish(t, "orders", numbered(1))
	<-h.started
	r.stop()
	l := r.loops[0]
	rabbittest.Eventually(t, 5*time.Second, func() bool {
		return inflight.Ask(t.Context(), l.calls, func() bool { return !l.consuming() })
	}, "the consumer has ended")
	p.Stall(rabbittest.BothWays)
	close(h.release)
	if took, err := r.end(); err != nil || took > 3*rabbittest.Soon {
		t.Errorf("stopped after %v with %v, want none, soon after the shutdown timeout", took, err)
	}
}

// TestStopThatLosesItsConnection has nothing wake the loop over and over while it waits for
// what has been started.
func TestStopThatLosesItsConnection(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	h := newHeld()
	r := runLong(t, []string{v.URLAt(p.Addr)}, Queue{Name: "orders", Processor: h})
	v.Publish(t, "orders", numbered(1))
	<-h.started
	r.stop()
	l := r.loops[0]
	ask := func(f func() bool) func() bool {
		return func() bool { return inflight.Ask(t.Context(), l.calls, f) }
	}
	rabbittest.Eventually(t, 5*time.Second, ask(func() bool { return !l.consuming() }), "the consumer has ended")
	p.Refuse()
	rabbittest.Eventually(t, 5*time.Second, ask(func() bool { return l.sub.ch.IsClosed() }), "the connection is lost")
	rabbittest.Eventually(t, 5*time.Second, ask(func() bool {
		select {
		case <-l.cancelled():
			return false
		default:
			return true
		}
	}), "nothing more is read of what the channel had to say")
	close(h.release)
	_, err := r.end()
	equal(t, err, nil)
	if want := "msg=stopped finished=1"; !contains(r.log, want) {
		t.Errorf("the log lacks %q", want)
	}
}

// TestReturnsDoNotUseUpTheDeliveryLimit gives back messages that have used up more
// than half of their delivery limit. Where that counts, they go home in another way.
func TestReturnsDoNotUseUpTheDeliveryLimit(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	h := newHeld()
	_, _ = run(t, []string{v.URL}, Queue{Name: "orders", Processor: noop}).end()
	v.PublishN(t, "orders", 10, numbered)
	age(t, v, "orders", broker.DeliveryLimit/2, func(d amqp.Delivery) bool { return d.MessageId != "0" })

	r := runLong(t, []string{v.URL}, Queue{Name: "orders", Concurrency: 1, Prefetch: 20, Processor: h})
	equal(t, <-h.started, "0")
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Unacked(t, "orders") == 10 }, "all are handed out")
	r.stop()
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "orders") == 9 }, "the others are back")
	close(h.release)
	_, err := r.end()
	equal(t, err, nil)
	if want := "msg=stopped finished=1 returned=9 abandoned=0"; !contains(r.log, want) {
		t.Errorf("the log lacks %q", want)
	}
	for _, d := range v.Drain(t, "orders") {
		if n, _ := broker.Integer(d.Headers[broker.HeaderDeliveryCount]); n > broker.DeliveryLimit/2 {
			t.Errorf("message %s has a delivery count of %d", d.MessageId, n)
		}
	}
	equal(t, v.Ready(t, "orders.dead"), 0)
}

// TestAbandonedWhileItIsBeingReturned has the copies of what is returned on their way when
// work is abandoned: whoever returns a message by itself then has it there twice.
func TestAbandonedWhileItIsBeingReturned(t *testing.T) {
	t.Parallel()
	const messages = 20
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	_, _ = run(t, []string{v.URL}, Queue{Name: "orders", Processor: noop}).end()
	v.PublishN(t, "orders", messages, numbered)
	age(t, v, "orders", returnedOften, func(amqp.Delivery) bool { return true })

	stuck, begun := newHeld(), make(chan struct{}, messages)
	defer close(stuck.release)
	slow := func(ctx context.Context, _ Delivery, _ *Scope) error {
		begun <- struct{}{}
		<-ctx.Done()
		<-time.After(abandonAfter * 4 / 5)
		return ctx.Err()
	}
	r := runConfig(t, Config{Nodes: []string{v.URLAt(p.Addr)}, ShutdownTimeout: 300 * time.Millisecond, Queues: []Queue{
		{Name: "orders", Concurrency: messages, Prefetch: messages, Processor: ProcessorFunc(slow)},
		{Name: "stuck", Processor: stuck},
	}}, func(c *Consumer) { c.loops[0].executor.returnFor = rabbittest.Soon })
	v.Publish(t, "stuck", numbered(0))
	<-stuck.started
	for range messages {
		<-begun
	}
	p.Slow(150 * time.Millisecond)
	if _, err := r.end(); !errors.Is(err, ErrAbandoned) {
		t.Errorf("stopped with %v, want ErrAbandoned", err)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Unacked(t, "orders") == 0 }, "all are returned")
	equal(t, v.Ready(t, "orders"), messages)
}

// age has every message that which wants handed out n times in vain.
func age(t *testing.T, v *rabbittest.Vhost, queue string, n int, which func(amqp.Delivery) bool) {
	t.Helper()
	total := v.Ready(t, queue)
	ch := v.Channel(t)
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for ready := 0; ready < total; {
		d := <-deliveries
		if !which(d) || counts[d.MessageId] == n-1 {
			ready++ // the end of the channel returns it once more
			continue
		}
		counts[d.MessageId]++
		// Not nack: from RabbitMQ 4.3 on that would not count.
		if err := d.Reject(true); err != nil {
			t.Fatal(err)
		}
	}
	if err := ch.Close(); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, queue) == total }, "all are back")
}
