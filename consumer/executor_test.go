package consumer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/brake"
	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/meters"
)

// A timedAttempt is when an attempt was made, and which one its processor saw.
type timedAttempt struct {
	after   time.Duration
	attempt int
}

// newTestConsumer is one that never connects, for what needs only its instruments.
func newTestConsumer(log *slog.Logger) *Consumer {
	c := &Consumer{cfg: Config{Worker: "vm1 1.0"}.withDefaults(), sessions: broker.NewNewest(), log: log}
	c.meters, _ = meters.New(c.cfg.Telemetry.MeterProvider, meters.Source{})
	return c
}

func newTestState(q Queue) *meters.Queue {
	return meters.NewQueue(q.Name, q.Concurrency, len(actionNames), brake.New(true, q.Concurrency, slog.New(slog.DiscardHandler)))
}

func newTestExecutor(q Queue, log *slog.Logger) *executor {
	q.Name = "orders"
	q = Config{Queues: []Queue{q}}.withDefaults().Queues[0]
	return newQueueLoop(q, newTestState(q), newTestConsumer(log)).executor
}

func TestWaitsUnderASecondAreWaitedInTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var got []timedAttempt
		e := newTestExecutor(Queue{
			RetryBase: 150 * time.Millisecond,
			Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
				got = append(got, timedAttempt{time.Since(start), d.Attempt})
				if d.Attempt == 4 {
					return RetryAfter(errors.New("busy"), 900*time.Millisecond)
				}
				return errors.New("no")
			}),
		}, slog.New(slog.DiscardHandler))
		_, o := e.attempt(t.Context(), &job{delivery: amqp.Delivery{}, history: history{attempts: 1}})

		// After the 5th attempt the wait would be 2.4 s: that is the broker's.
		equal(t, got, []timedAttempt{{0, 2}, {300 * time.Millisecond, 3}, {900 * time.Millisecond, 4}})
		equal(t, o.attempts, 4)
		equal(t, errorText(o.err), "busy")
		equal(t, o.verdict, verdict{action: retryLater, after: 1200 * time.Millisecond})
	})
}

func TestAttemptsInTheProcessEndWithTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestExecutor(Queue{
			RetryBase: time.Millisecond, RetryMax: 2 * time.Millisecond, MaxAttempts: 5,
			Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return errors.New("no") }),
		}, slog.New(slog.DiscardHandler))
		start := time.Now()
		_, o := e.attempt(t.Context(), &job{})
		equal(t, o.attempts, 5)
		equal(t, errorText(o.err), "no")
		equal(t, o.verdict, verdict{action: deadLetter, reason: "exhausted"})
		equal(t, time.Since(start), 7*time.Millisecond) // 1 + 2 + 2 + 2
	})
}

func TestAttemptThatNeverBeganIsNotDone(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrShutdown)
	e := newTestExecutor(Queue{Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return nil })}, slog.New(slog.DiscardHandler))
	_, o := e.attempt(ctx, &job{})
	equal(t, o.attempts, 0)
	equal(t, o.verdict.action, requeue)
}

func TestShutdownCutsAWaitInTheProcessShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		e := newTestExecutor(Queue{
			RetryBase: 900 * time.Millisecond,
			Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return errors.New("no") }),
		}, slog.New(slog.DiscardHandler))
		time.AfterFunc(100*time.Millisecond, func() { cancel(ErrShutdown) })
		start := time.Now()
		_, o := e.attempt(ctx, &job{})
		equal(t, o.verdict.action, requeue)
		equal(t, time.Since(start), 100*time.Millisecond)
	})
}

func TestTimeoutEndsTheContextOfAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestExecutor(Queue{
			Timeout: 30 * time.Second,
			Processor: ProcessorFunc(func(ctx context.Context, _ Delivery, _ *Scope) error {
				<-ctx.Done()
				if cause := context.Cause(ctx); !errors.Is(cause, ErrTimeout) {
					t.Errorf("the cause is %v, want ErrTimeout", cause)
				}
				return errors.New("interrupted while sending")
			}),
		}, slog.New(slog.DiscardHandler))
		start := time.Now()
		var o outcome
		e.once(t.Context(), Delivery{}, &o)
		err := o.err
		equal(t, time.Since(start), 30*time.Second)
		equal(t, errorText(err), "the attempt took longer than the queue's timeout (30s): interrupted while sending")
		equal(t, verdictOf(t.Context(), err).action, retryLater)
	})
}

func TestWorkThatIsDoneInSpiteOfItsTimeoutIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestExecutor(Queue{Timeout: time.Second, Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error {
			<-time.After(2 * time.Second)
			return nil
		})}, slog.New(slog.DiscardHandler))
		var o outcome
		e.once(t.Context(), Delivery{}, &o)
		err := o.err
		equal(t, err, nil)
	})
}

// TestAProcessorThatIgnoresItsTimeoutIsReported has one job on a channel that is consumed,
// one on a channel that is left, and one whose channel is lost.
func TestAProcessorThatIgnoresItsTimeoutIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		returned := make(chan struct{})
		e := newTestExecutor(Queue{Timeout: time.Minute, Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error {
			<-returned
			return nil
		})}, slog.New(slog.NewTextHandler(&log, nil)))
		l := newQueueLoop(e.Queue, e.state, newTestConsumer(e.log))
		l.executor = e
		jobs := make([]*job, 3)
		for i := range jobs {
			jobs[i] = &job{delivery: amqp.Delivery{MessageId: fmt.Sprint("m-", i)}, started: time.Now()}
			go e.once(t.Context(), newDelivery(e.Name, jobs[i], 1), &outcome{message: &jobs[i].message})
		}
		l.hire(t.Context())
		defer l.workers.End()
		conn := &broker.Conn{Connection: new(amqp.Connection)}
		l.sub, l.leaving = &subscription{}, []*subscription{{session: &broker.Session{Consume: conn, Publish: conn}, ch: &broker.Channel{Channel: new(amqp.Channel)}}}
		l.sub.unsettled.Add(1, jobs[0])
		l.leaving[0].unsettled.Add(1, jobs[1])
		l.orphans[jobs[2]] = l.identityOf(jobs[2])
		<-time.After(time.Minute + 5*time.Second)
		l.turn(t.Context(), t.Context(), time.Now())
		equal(t, log.String(), "")
		<-time.After(5 * time.Second)
		for range 2 {
			l.turn(t.Context(), t.Context(), time.Now())
		}
		for i := range jobs {
			if got := strings.Count(log.String(), fmt.Sprint("message_id=m-", i)); got != 1 {
				t.Errorf("m-%d is reported %d times in %q, want once", i, got, log.String())
			}
		}
		close(returned)
		synctest.Wait()
	})
}

func TestTheLoopLetsIdleWorkersGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestExecutor(Queue{Concurrency: 8, Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error {
			<-time.After(time.Second)
			return nil
		})}, slog.New(slog.DiscardHandler))
		l := newQueueLoop(e.Queue, e.state, newTestConsumer(e.log))
		l.sub = &subscription{}
		l.hire(t.Context())
		stacks := make([]byte, 1<<20)
		workers := func(want int) {
			t.Helper()
			synctest.Wait()
			// NumGoroutine counts one that has ended for a moment.
			equal(t, bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("Workers[...]).run(")), want)
		}
		for tag := range uint64(8) {
			l.start(t.Context(), amqp.Delivery{DeliveryTag: tag + 1})
		}
		workers(8)
		for range 8 {
			<-l.results
			l.occupy(-1, 0)
		}
		for range 2 {
			<-time.After(2 * time.Minute)
			l.turn(t.Context(), t.Context(), time.Now())
		}
		workers(0)
		l.workers.End()
	})
}

func TestAPanicIsAnErrorWithAStack(t *testing.T) {
	e := newTestExecutor(Queue{Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error {
		orders := make([]int, 0)
		return fmt.Errorf("order %d", orders[len(orders)])
	})}, slog.New(slog.DiscardHandler))
	var o outcome
	e.once(t.Context(), Delivery{}, &o)
	err := o.err
	p, ok := errors.AsType[*PanicError](err)
	if !ok || !strings.Contains(p.Stack, "executor_test.go") || !strings.Contains(err.Error(), "index out of range") {
		t.Errorf("error %v of %T, want a PanicError with this file in its stack", err, err)
	}
}

func TestAProcessorThatEndsItsGoroutineGivesItsSlotBack(t *testing.T) {
	l := newQueueLoop(Queue{Name: "orders", Concurrency: 1}, newTestState(Queue{}), newTestConsumer(slog.New(slog.DiscardHandler)))
	l.do(&job{}, func() action { runtime.Goexit(); return acknowledge })
	equal(t, (<-l.results).action, requeue)
}

func TestRateSpacesStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestExecutor(Queue{Rate: 10, Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return nil })}, slog.New(slog.DiscardHandler))
		l := newQueueLoop(e.Queue, e.state, newTestConsumer(e.log))
		l.sub = &subscription{}
		l.hire(t.Context())
		start := time.Now()
		for tag := range uint64(21) {
			if l.startAt != nil {
				<-l.startAt
				l.startAt = nil
			}
			l.start(t.Context(), amqp.Delivery{DeliveryTag: tag + 1})
			<-l.results
		}
		equal(t, time.Since(start), 2*time.Second)
		l.workers.End()
		l.workers.Wait()
	})
}
