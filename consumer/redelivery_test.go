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
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestWorkUnderWayIsNotBegunAgain takes the channel from under work again and again: it
// is done once, never beside itself.
func TestWorkUnderWayIsNotBegunAgain(t *testing.T) {
	const messages, times = 4, 5
	for name, lose := range map[string]func(t *testing.T, v *rabbittest.Vhost, p *rabbittest.Proxy, consuming func() int){
		"connections cut": func(t *testing.T, _ *rabbittest.Vhost, p *rabbittest.Proxy, consuming func() int) {
			for i := range times {
				p.Cut()
				rabbittest.Eventually(t, 30*time.Second, func() bool { return consuming() >= 2+i }, "consumed again")
			}
		},
		"consumer timeout": func(t *testing.T, v *rabbittest.Vhost, _ *rabbittest.Proxy, consuming func() int) {
			setEnv(t, v, "channel_tick_interval", "200", "60000")
			setEnv(t, v, "consumer_timeout", "1000", "1800000")
			v.CloseConnections(t, "for the timeout to count")
			// From 4.3 on it does not count for deliveries of a consumer that has been replaced: once will do.
			rabbittest.Eventually(t, time.Minute, func() bool { return consuming() >= 3 }, "consumed again after a timeout")
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			p := rabbittest.NewProxy(t, v.Node.Addr())
			h := newHeld()
			r := run(t, []string{v.URLAt(p.Addr)}, Queue{Name: "slow", Processor: h})
			release := releaser(t, h.release)
			v.PublishN(t, "slow", messages, func(i int) amqp.Publishing {
				return amqp.Publishing{MessageId: []string{"", fmt.Sprint(i)}[i%2], Body: []byte(fmt.Sprint(i))}
			})
			for range messages {
				<-h.started
			}
			lose(t, v, p, func() int { return strings.Count(r.log.String(), "msg=consuming") })
			rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Unacked(t, "slow") == messages }, "all are handed out again")
			release()
			empty(t, v, "slow", "slow.dead")
			equal(t, len(h.started), 0)
			t.Logf("%d redeliveries were held", strings.Count(r.log.String(), "held until that has ended"))
		})
	}
}

// TestWhatWasCutOffIsVisible has four daemons begin with a message, the first three of
// which have to stop before it is done: processor, span and state learn of it, also once
// the broker's own mark is gone, since the message is published anew.
func TestWhatWasCutOffIsVisible(t *testing.T) {
	const daemons = 4
	v := rabbittest.NewVhost(t)
	var mu sync.Mutex
	var told []string
	var seen recorder
	spans := tracetest.NewSpanRecorder()
	for daemon := range daemons {
		started := make(chan struct{}, 1)
		r := runConfig(t, Config{
			Nodes: []string{v.URL}, Observer: &seen, ShutdownTimeout: 10 * time.Millisecond,
			Telemetry: Telemetry{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))},
			Queues: []Queue{{Name: "orders", MaxAttempts: 2, Processor: ProcessorFunc(func(ctx context.Context, d Delivery, _ *Scope) error {
				mu.Lock()
				told = append(told, fmt.Sprint(d.Attempt, " ", d.Redelivered))
				mu.Unlock()
				if daemon < daemons-1 {
					started <- struct{}{}
					<-ctx.Done()
				}
				return errors.New("no luck")
			})}},
		}, nil)
		if daemon == 0 {
			v.Publish(t, "orders", amqp.Publishing{MessageId: "m", Headers: amqp.Table{"traceparent": publishersTrace}})
		}
		if daemon < daemons-1 {
			<-started
			if _, err := r.end(); !errors.Is(err, ErrAbandoned) {
				t.Fatalf("got %v, want %v", err, ErrAbandoned)
			}
		}
	}
	rabbittest.Eventually(t, 15*time.Second, func() bool {
		ended := 0
		for _, s := range spans.Ended() {
			if strings.HasPrefix(s.Name(), "process") {
				ended++
			}
		}
		return v.Ready(t, "orders.dead") == 1 && v.Unacked(t, "orders") == 0 && ended == daemons+1
	}, "it is dead-lettered, and the last attempt has ended")
	mu.Lock()
	equal(t, told, []string{"1 false", "1 true", "1 true", "1 true", "2 true"})
	mu.Unlock()
	equal(t, v.Drain(t, "orders.dead")[0].Headers["x-warren-redelivered"], any(true))
	var attempts []string
	var redelivered int
	for _, s := range spans.Ended() {
		if !strings.HasPrefix(s.Name(), "process") {
			continue
		}
		equal(t, s.SpanContext().TraceID().String(), "0af7651916cd43dd8448eb211c80319c")
		attempts = append(attempts, strings.TrimSpace(attr(s, "warren.attempt")+" "+attr(s, "warren.verdict")+" "+attr(s, "warren.redelivered")))
		for _, e := range s.Events() {
			if e.Name == "redelivered" {
				redelivered++
				equal(t, e.Attributes[0].Key, attrDeliveryCount)
			}
		}
	}
	equal(t, attempts, []string{"1 return", "1 return true", "1 return true", "1 retry true", "2 dead true"})
	if redelivered < 2 { // 3 where a stop counts for nothing, and publishes nothing
		t.Errorf("%d spans have the event, want 2 or 3", redelivered)
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for i, tr := range seen.all {
		// The first two are of the daemon that begins, and of its stop.
		equal(t, tr.Redelivered, i >= 2)
	}
	equal(t, seen.all[len(seen.all)-1].State, Dead)
}

// TestAcknowledgementsLostOnTheirWay writes acknowledgements into a network that loses
// them: their messages are not worked again.
func TestAcknowledgementsLostOnTheirWay(t *testing.T) {
	t.Parallel()
	const messages = 16
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	done, started, release := newLedger(), make(chan struct{}, messages), make(chan struct{})
	r := run(t, []string{v.URLAt(p.Addr)}, Queue{Name: "jobs", Concurrency: messages, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		started <- struct{}{}
		<-release
		done.write(d)
		return nil
	})})
	finish := releaser(t, release)
	v.PublishN(t, "jobs", messages, numbered)
	for range messages {
		<-started
	}
	p.Stall(rabbittest.ToNode)
	finish()
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.Status().Queues[0].Done == messages && r.Status().Queues[0].InFlight == 0 }, "all are done")
	equal(t, v.Unacked(t, "jobs"), messages)
	p.Refuse()
	p.Restore(t)
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		_, repeats := done.counts()
		return repeats+strings.Count(r.log.String(), "acknowledged without running again") >= messages
	}, "all have come again")
	empty(t, v, "jobs", "jobs.dead")
	_, repeats := done.counts()
	equal(t, repeats, 0)
}

// TestTheSecondCopyOfARetryIsNotRun has a retry published twice, since the connection was
// lost before its confirm, and cuts the connection once more while the first copy is worked
// and the second lies in the prefetch: both are redelivered, and the attempt is made once.
func TestTheSecondCopyOfARetryIsNotRun(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	started, release := make(chan int, 10), make(chan struct{})
	recorder := tracetest.NewSpanRecorder() // each copy has a span of its own in its headers
	r := runConfig(t, Config{
		Nodes:     []string{v.URLAt(p.Addr)},
		Telemetry: Telemetry{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))},
		Queues: []Queue{{Name: "orders", Concurrency: 1, Prefetch: 2, RetryBase: 4 * time.Second, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
			if d.MessageID == "m" {
				started <- d.Attempt
				<-release
			}
			if d.Attempt == 1 && d.MessageID != "delayed" {
				return errors.New("no")
			}
			return nil
		})}},
	}, nil)
	finish := releaser(t, release)
	consuming := func(times int) func() bool {
		return func() bool { return strings.Count(r.log.String(), "msg=consuming") >= times }
	}
	// The first opens the channel that the second is published on. What is published late on a
	// busy machine has less than 4 s left, and takes a shorter wait: those are declared as well.
	v.Publish(t, "orders", amqp.Publishing{MessageId: "first"})
	for _, ms := range []int{7900, 3900, 1900} {
		v.Publish(t, "orders", amqp.Publishing{MessageId: "delayed", Headers: amqp.Table{"x-delay": ms}})
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return r.Status().Queues[0].Done == 4 }, "those before are done")
	v.Publish(t, "orders", amqp.Publishing{MessageId: "m"})
	equal(t, <-started, 1)
	p.Stall(rabbittest.FromNode)
	release <- struct{}{}
	rabbittest.Eventually(t, 10*time.Second, func() bool { // on a busy machine it may be home before anybody looks
		return v.Ready(t, "warren.wait.orders.4s")+v.Ready(t, "warren.wait.orders.2s")+v.Ready(t, "orders")+v.Unacked(t, "orders") >= 2
	}, "the first copy is there, beside the delivery")
	p.Cut()
	p.Restore(t)
	rabbittest.Eventually(t, 20*time.Second, consuming(2), "connected again")
	equal(t, <-started, 2)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Unacked(t, "orders") == 2 }, "both copies are handed out")
	p.Cut()
	rabbittest.Eventually(t, 20*time.Second, consuming(3), "connected once more")
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "orders")+v.Unacked(t, "orders") == 2 }, "both copies are there")
	finish()
	empty(t, v, "orders", "orders.dead", "warren.wait.orders.4s")
	equal(t, len(started), 0)
	attempts := 0
	for _, s := range recorder.Ended() {
		if s.Name() == "process orders" {
			attempts++
		}
	}
	equal(t, attempts, 7)
}

// TestEachCopyHasAName fails a message to its end: each copy that waits has another name,
// and the dead letter, which may be put back into the queue, has none.
func TestEachCopyHasAName(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	names := make(chan any, 10)
	run(t, []string{v.URL}, Queue{Name: "orders", MaxAttempts: 3, RetryMax: time.Second, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		names <- d.Headers[broker.HeaderCopy]
		return errors.New("no")
	})})
	v.Publish(t, "orders", amqp.Publishing{MessageId: "m", Headers: amqp.Table{broker.HeaderCopy: "not Warren's"}})
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "orders.dead") == 1 }, "the message is dead")
	<-names
	second, third := <-names, <-names
	if second == nil || third == nil || second == third || second == "not Warren's" {
		t.Errorf("the copies are named %v and %v, want two names", second, third)
	}
	equal(t, v.Drain(t, "orders.dead")[0].Headers[broker.HeaderCopy], nil)
}

// TestMessagesThatDifferInOneThing have one id and body: what was done of one is nothing
// to the others, when a lost connection has all handed out again.
func TestMessagesThatDifferInOneThing(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	base := amqp.Publishing{MessageId: "user-1", Body: []byte(`{"user":1}`), DeliveryMode: amqp.Persistent}
	messages := make([]amqp.Publishing, 6)
	for i := range messages {
		messages[i] = base
	}
	messages[0].Type, messages[1].Type = "user.created", "user.deleted"
	messages[2].Headers = amqp.Table{"tenant": "blue"}
	messages[3].Headers = amqp.Table{"tenant": "red"}
	messages[4].CorrelationId = "c"
	messages[5].Timestamp = time.Unix(1_700_000_000, 0)
	var mu sync.Mutex
	worked := make(map[string]int)
	started, release := make(chan struct{}, 100), make(chan struct{})
	r := run(t, []string{v.URLAt(p.Addr)}, Queue{Name: "users", Concurrency: 1, Prefetch: 10, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		started <- struct{}{}
		<-release
		mu.Lock()
		defer mu.Unlock()
		worked[fmt.Sprint(d.Type, d.Headers["tenant"], d.CorrelationID, d.Timestamp.Unix())]++
		return nil
	})})
	finish := releaser(t, release)
	v.Publish(t, "users", messages...)
	<-started
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Unacked(t, "users") == len(messages) }, "all are handed out")
	p.Cut()
	rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Count(r.log.String(), "msg=connected") >= 2 }, "connected again")
	finish()
	empty(t, v, "users", "users.dead")
	mu.Lock()
	defer mu.Unlock()
	equal(t, len(worked), len(messages))
	for what, n := range worked {
		if n != 1 {
			t.Errorf("%s was worked %d times", what, n)
		}
	}
}

// TestADelaySurvivesTheStopThatRepublishesIt stops a daemon that holds a delayed message
// which it has not begun with.
func TestADelaySurvivesTheStopThatRepublishesIt(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	h := newHeld()
	_, _ = run(t, []string{v.URL}, Queue{Name: "later", Processor: noop}).end()
	v.Publish(t, "later", amqp.Publishing{MessageId: "first"}, amqp.Publishing{MessageId: "delayed", Headers: amqp.Table{"x-delay": int64(3_600_000)}})
	age(t, v, "later", returnedOften+1, func(amqp.Delivery) bool { return true })
	r := runLong(t, []string{v.URL}, Queue{Name: "later", Concurrency: 1, Prefetch: 5, Processor: h})
	release := releaser(t, h.release)
	equal(t, <-h.started, "first")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Unacked(t, "later") == 2 }, "the delayed one is held")
	due := time.Now().Add(time.Hour)
	r.stop()
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "later") == 1 }, "it is back")
	release()
	_, err := r.end()
	equal(t, err, nil)

	done := newLedger()
	run(t, []string{v.URL}, Queue{Name: "later", Processor: done.done()})
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "warren.wait.later.1024s") == 1 }, "it waits")
	found, err := operator.Broker{Nodes: []string{v.URL}}.Waiting(t.Context(), []string{"later"}, operator.Selection{}, 10)
	if err != nil || len(found.Messages) != 1 {
		t.Fatalf("got %v and error %v, want one that waits", found, err)
	}
	if off := found.Messages[0].Due.Sub(due).Abs(); off > 10*time.Minute {
		t.Errorf("it is due at %v, want %v", found.Messages[0].Due, due)
	}
	equal(t, len(done.of("delayed")), 0)
}

// TestSuspectsObeyTheRate works suspects of a queue that has one.
func TestSuspectsObeyTheRate(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	_, _ = run(t, []string{v.URL}, Queue{Name: "orders", Processor: noop}).end()
	v.PublishN(t, "orders", 6, numbered)
	age(t, v, "orders", broker.SuspectAfter+1, func(amqp.Delivery) bool { return true })
	done := newLedger()
	start := time.Now()
	run(t, []string{v.URL}, Queue{Name: "orders", Rate: 5, Processor: done.done()})
	empty(t, v, "orders", "orders.dead")
	if took := time.Since(start); took < time.Second {
		t.Errorf("6 suspects were worked within %v, want 5 a second", took)
	}
	n, _ := done.counts()
	equal(t, n, 6)
}

// TestParkingTakesNothingOfTheRate parks delayed messages of a queue whose rate would
// take a day for them.
func TestParkingTakesNothingOfTheRate(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	run(t, []string{v.URL}, Queue{Name: "orders", Rate: 0.001, Processor: noop})
	v.PublishN(t, "orders", 100, func(i int) amqp.Publishing {
		return amqp.Publishing{MessageId: fmt.Sprint(i), Headers: amqp.Table{"x-delay": int64(3_600_000)}}
	})
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "warren.wait.orders.1024s") == 100 }, "all are parked")
}

// TestRestartsMakeNoSuspects stops and starts again over a backlog that is prefetched
// each time: nothing in it comes near to being suspected.
func TestRestartsMakeNoSuspects(t *testing.T) {
	v := rabbittest.NewVhost(t)
	h := newHeld()
	const messages = 60
	left := messages // or one more for an acknowledgement that a busy broker has forgotten
	for i := range 2 * broker.SuspectAfter {
		r := runLong(t, []string{v.URL}, Queue{Name: "orders", Concurrency: 1, Prefetch: messages, Processor: h})
		if i == 0 {
			v.PublishN(t, "orders", messages, numbered)
		}
		<-h.started
		rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Unacked(t, "orders") == left }, "all are handed out")
		r.stop()
		rabbittest.Eventually(t, 10*time.Second, func() bool { return contains(r.log, "msg=\"stopping") }, "it is stopping")
		h.release <- struct{}{}
		_, err := r.end()
		equal(t, err, nil)
		equal(t, contains(r.log, "may end the process"), false)
		rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Unacked(t, "orders") == 0 && v.Ready(t, "orders") >= left-1 }, "the others are back")
		left = v.Ready(t, "orders")
	}
	for _, d := range v.Drain(t, "orders") {
		if n, _ := broker.Integer(d.Headers[broker.HeaderDeliveryCount]); n >= broker.SuspectAfter {
			t.Errorf("message %s has a delivery count of %d", d.MessageId, n)
		}
	}
	equal(t, v.Ready(t, "orders.dead"), 0)
}

// TestRestartsThatCutWorkShort interrupt two messages at the shutdown timeout more often
// than the delivery limit: one whose processor heeds that, and one whose does not.
func TestRestartsThatCutWorkShort(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	for i := range broker.DeliveryLimit + 1 {
		started := make(chan string, 10)
		r := runConfig(t, Config{Nodes: []string{v.URL}, ShutdownTimeout: 50 * time.Millisecond, Queues: []Queue{{Name: "long", Concurrency: 2,
			Processor: ProcessorFunc(func(ctx context.Context, d Delivery, _ *Scope) error {
				started <- d.MessageID
				<-ctx.Done()
				if d.MessageID == "stubborn" {
					<-over
				}
				return ctx.Err()
			})}}}, nil)
		if i == 0 {
			v.Publish(t, "long", amqp.Publishing{MessageId: "heeding"}, amqp.Publishing{MessageId: "stubborn"})
		}
		<-started
		<-started
		if _, err := r.end(); !errors.Is(err, ErrAbandoned) {
			t.Fatalf("stop %d: got %v, want ErrAbandoned", i, err)
		}
		rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "long") == 2 }, "both are back")
	}
	equal(t, v.Ready(t, "long.dead"), 0)
	done := newLedger()
	run(t, []string{v.URL}, Queue{Name: "long", Processor: done.done()})
	empty(t, v, "long", "long.dead")
	n, repeats := done.counts()
	equal(t, []int{n, repeats}, []int{2, 0})
}

// TestStopsRepeatNoFinishedWork stops a busy daemon with a large prefetch again and again.
func TestStopsRepeatNoFinishedWork(t *testing.T) {
	t.Parallel()
	stops := long(12, 115)
	v := rabbittest.NewVhost(t)
	done := newLedger()
	sent := 0
	for i := range stops {
		reached := make(chan struct{})
		var once sync.Once
		before, _ := done.counts()
		r := run(t, []string{v.URL}, Queue{Name: "busy", Prefetch: 100 + i%101, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
			done.write(d)
			if n, _ := done.counts(); n >= before+300 {
				once.Do(func() { close(reached) })
			}
			return nil
		})})
		first := sent
		sent += 800
		v.PublishN(t, "busy", 800, func(i int) amqp.Publishing { return numbered(first + i) })
		<-reached
		_, err := r.end()
		equal(t, err, nil)
	}
	run(t, []string{v.URL}, Queue{Name: "busy", Prefetch: 200, Processor: done.done()})
	empty(t, v, "busy", "busy.dead")
	n, repeats := done.counts()
	equal(t, []int{n, repeats}, []int{sent, 0})
	t.Logf("%d stops over %d messages, %d repeated", stops, sent, repeats)
}
