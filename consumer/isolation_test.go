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

	"github.com/warrenmq/warren/consumer/internal/halt"
	"github.com/warrenmq/warren/consumer/internal/inflight"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestRetriesThatCannotComeHomeBlockNoOthers takes their work queue away from 40 waiting
// messages: more than the broker moves at once. The neighbour's retries come home in time,
// and those of the queue with the broker's next round after it is as it should be again.
func TestRetriesThatCannotComeHomeBlockNoOthers(t *testing.T) {
	t.Parallel()
	const waiting, wait = 40, 20 * time.Second
	for name, lose := range map[string]func(t *testing.T, v *rabbittest.Vhost) (restore func()){
		"deleted": func(t *testing.T, v *rabbittest.Vhost) func() {
			v.DeleteQueue(t, "sick")
			return func() { declareAll(t, v, "sick") }
		},
		"full": func(t *testing.T, v *rabbittest.Vhost) func() {
			v.PublishN(t, "sick", 20, func(int) amqp.Publishing { return amqp.Publishing{Type: "filler"} })
			v.SetPolicy(t, "full", "^sick$", `{"max-length":1}`, "queues")
			return func() { v.SetPolicy(t, "full", "^sick$", `{"max-length":1000000}`, "queues") }
		},
		"without a leader": func(t *testing.T, v *rabbittest.Vhost) func() { return v.LoseLeader(t, "sick") },
	} {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			setEnv(t, v, "dead_letter_worker_publisher_confirm_timeout", "3000", "180000")
			declareAll(t, v, "sick", "neighbour")
			n, sick, released := newNeighbour(), newLedger(), make(chan struct{})
			r := run(t, []string{v.URL}, n.queue(), Queue{
				Name: "sick", Passive: true, Unbraked: true, RetryBase: wait, RetryMax: 64 * time.Second,
				Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
					if d.Type == "filler" {
						<-released
						return nil
					}
					sick.write(d)
					if d.Attempt == 1 {
						return errors.New("fails once")
					}
					return nil
				})})
			release := releaser(t, released)
			v.PublishN(t, "sick", waiting, numbered)
			rabbittest.Eventually(t, 20*time.Second, func() bool { m, _ := sick.counts(); return m == waiting }, "all have failed once")
			due := time.Now().Add(wait)
			restore := lose(t, v)
			for time.Now().Before(due.Add(2 * time.Second)) {
				n.works(t, v)
			}
			_, again := sick.counts()
			equal(t, again, 0)
			n.works(t, v)

			restored := time.Now()
			restore()
			release()
			rabbittest.Eventually(t, time.Minute, func() bool { _, again := sick.counts(); return again == waiting }, "the queue's own retries are home")
			t.Logf("the queue's own %d were home after %v, with rounds of 3 s", waiting, time.Since(restored).Round(time.Millisecond))
			n.works(t, v)
			empty(t, v, "sick", "sick.dead", "warren.wait.sick.16s")
			for i := range waiting {
				equal(t, len(sick.of(fmt.Sprint(i))), 2)
			}
			n.undisturbed(t, r)
		})
	}
}

// releaser returns what closes a channel once; the end of the test does at the latest.
func releaser(t *testing.T, c chan struct{}) (release func()) {
	t.Helper()
	release = sync.OnceFunc(func() { close(c) })
	t.Cleanup(release)
	return release
}

// TestAQueueWithoutALeaderIsAloneInThat takes the leader from one queue before it is
// consumed, and from another under its consumer. Both are worked when they have it again.
func TestAQueueWithoutALeaderIsAloneInThat(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	declareAll(t, v, "before", "under")
	v.PublishN(t, "before", 30, numbered)
	restoreBefore := v.LoseLeader(t, "before")
	n, before, under := newNeighbour(), newLedger(), newLedger()
	r := runQueues(t, []string{v.URLAt(p.Addr)}, 2,
		Queue{Name: "before", Processor: before.done()}, Queue{Name: "under", Processor: under.done()}, n.queue())
	n.works(t, v)
	v.PublishN(t, "under", 30, numbered)
	rabbittest.Eventually(t, 20*time.Second, func() bool { m, _ := under.counts(); return m == 30 }, "the other one is worked")
	restoreUnder := v.LoseLeader(t, "under")
	for range 5 {
		n.works(t, v)
	}
	n.undisturbed(t, r)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return contains(r.log, "cannot consume the queue, trying again") },
		"the log says that a queue cannot be consumed")

	// And with a session that begins while both are without.
	p.Cut()
	rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Count(r.log.String(), "msg=connected") >= 2 }, "connected again")
	for range 5 {
		n.works(t, v)
	}
	equal(t, strings.Count(r.log.String(), "connection lost"), 1)

	restoreBefore()
	restoreUnder()
	v.PublishN(t, "under", 60, numbered)
	rabbittest.Eventually(t, 30*time.Second, func() bool { m, _ := before.counts(); return m == 30 }, "the first is worked")
	rabbittest.Eventually(t, 30*time.Second, func() bool { m, _ := under.counts(); return m == 60 }, "the second is worked again")
	empty(t, v, "before", "before.dead", "under", "under.dead")
	equal(t, strings.Count(r.log.String(), "connection lost"), 1)
}

// failsOnce fails the first attempt, and writes the next one down.
func failsOnce(done *ledger) ProcessorFunc {
	return func(_ context.Context, d Delivery, _ *Scope) error {
		if d.Attempt == 1 {
			return errors.New("failed")
		}
		done.write(d)
		return nil
	}
}

// TestAWaitWithoutALeaderIsAloneInThat has more messages fail than a channel may have under
// way, in a queue whose wait confirms none of them.
func TestAWaitWithoutALeaderIsAloneInThat(t *testing.T) {
	t.Parallel()
	const messages = 300
	v := rabbittest.NewVhost(t)
	stuck, others := newLedger(), newLedger()
	r := runQueues(t, []string{v.URL}, 2,
		Queue{Name: "stuck", Unbraked: true, Prefetch: messages, Processor: failsOnce(stuck)}, Queue{Name: "others", Unbraked: true, Processor: failsOnce(others)})
	v.Publish(t, "stuck", amqp.Publishing{MessageId: "first"})
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { m, _ := stuck.counts(); return m == 1 }, "its wait is there")
	restore := v.LoseLeader(t, "warren.wait.stuck.1s")
	v.PublishN(t, "stuck", messages, numbered)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Unacked(t, "stuck") > 40 }, "they cannot wait")
	v.PublishN(t, "others", 30, numbered)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { m, _ := others.counts(); return m == 30 }, "the others fail, wait and succeed")
	restore()
	rabbittest.Eventually(t, time.Minute, func() bool { m, _ := stuck.counts(); return m == messages+1 }, "so do they, when it has one again")
	equal(t, strings.Count(r.log.String(), "connection lost"), 0)
}

// TestAWaitThatDoesNotAnswerIsAloneInThat begins a session while a wait does not answer:
// the broker makes a channel known to a queue with its first message for it, and does
// nothing else on the channel until the queue has answered, for 65 s.
func TestAWaitThatDoesNotAnswerIsAloneInThat(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	stuck, others := newLedger(), newLedger()
	r := runQueues(t, []string{v.URLAt(p.Addr)}, 2,
		Queue{Name: "stuck", Unbraked: true, Processor: failsOnce(stuck)}, Queue{Name: "others", Unbraked: true, Processor: failsOnce(others)})
	for queue, done := range map[string]*ledger{"stuck": stuck, "others": others} {
		v.Publish(t, queue, amqp.Publishing{MessageId: "first"})
		rabbittest.Eventually(t, rabbittest.Soon, func() bool { m, _ := done.counts(); return m == 1 }, "its wait is there")
	}
	resume := v.SuspendLeader(t, "warren.wait.stuck.1s")
	p.Cut()
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return strings.Count(r.log.String(), "msg=consuming") >= 4 }, "consuming again")
	v.PublishN(t, "stuck", 30, numbered)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Unacked(t, "stuck") > 7 }, "they cannot wait")
	v.PublishN(t, "others", 30, numbered)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { m, _ := others.counts(); return m == 31 }, "the others fail, wait and succeed")
	resume()
	rabbittest.Eventually(t, time.Minute, func() bool { m, _ := stuck.counts(); return m == 31 }, "so do they, when it answers again")
	equal(t, strings.Count(r.log.String(), "connection lost"), 1)
}

// TestAQueueThatDoesNotAnswerHoldsUpNothing pauses a queue whose leader answers nobody: the broker
// says for a minute and more nothing of the end of its consumer. The loop goes on without it.
func TestAQueueThatDoesNotAnswerHoldsUpNothing(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	done, started, release := newLedger(), make(chan struct{}, 2), make(chan struct{})
	r := run(t, []string{v.URL}, Queue{Name: "stuck", Concurrency: 1, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		started <- struct{}{}
		<-release
		done.write(d)
		return nil
	})})
	finish := releaser(t, release)
	v.Publish(t, "stuck", amqp.Publishing{MessageId: "m"})
	<-started
	l := r.loops[0]
	resume := v.SuspendLeader(t, "stuck")
	l.state.Halt.Pause(&halt.Pause{})
	rabbittest.Eventually(t, rabbittest.Soon, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return inflight.Ask(ctx, l.calls, func() bool { return l.sub == nil })
	}, "the loop has given up the channel, and answers")
	l.state.Halt.Pause(nil)
	finish()
	resume()
	empty(t, v, "stuck", "stuck.dead")
	messages, repeats := done.counts()
	equal(t, fmt.Sprint(messages, repeats), "1 0")
	equal(t, strings.Count(r.log.String(), "connection lost"), 0)
}
