package consumer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// long returns usual or, with WARREN_TEST_LONG set, as much as a thorough run takes.
func long[T any](usual, thorough T) T {
	if os.Getenv("WARREN_TEST_LONG") != "" {
		return thorough
	}
	return usual
}

// alarmed is how long an alarm lasts, as WARREN_TEST_ALARM says or long.
func alarmed(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("WARREN_TEST_ALARM")
	if text == "" {
		return long(8*time.Second, time.Minute)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestFinishedWorkIsNotRepeatedForItsReply keeps what a reply needs away: the work is
// done once, the reply is there once in the end, and messages without one are worked
// meanwhile.
func TestFinishedWorkIsNotRepeatedForItsReply(t *testing.T) {
	const answers = 16
	away := long(4*time.Second, time.Minute)
	for name, lose := range map[string]func(*testing.T, *rabbittest.Vhost, *rabbittest.Proxy) (restore func()){
		"its queue is full": func(t *testing.T, v *rabbittest.Vhost, _ *rabbittest.Proxy) func() {
			v.PublishN(t, "answers", 3, func(int) amqp.Publishing { return amqp.Publishing{} })
			v.SetPolicy(t, "full", "^answers$", `{"max-length":1,"overflow":"reject-publish"}`, "queues")
			return func() {
				v.SetPolicy(t, "full", "^answers$", `{"max-length":1000,"overflow":"reject-publish"}`, "queues")
			}
		},
		"its queue has no leader": func(t *testing.T, v *rabbittest.Vhost, _ *rabbittest.Proxy) func() {
			return v.LoseLeader(t, "answers")
		},
		"memory alarm": func(t *testing.T, v *rabbittest.Vhost, _ *rabbittest.Proxy) func() {
			alarm := func(on bool) {
				if err := v.Node.MemoryAlarm(on); err != nil {
					t.Error(err)
				}
			}
			alarm(true)
			return func() { alarm(false) }
		},
		"connection lost": func(t *testing.T, _ *rabbittest.Vhost, p *rabbittest.Proxy) func() {
			p.Refuse()
			return func() { p.Restore(t) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			p := rabbittest.NewProxy(t, v.Node.Addr())
			v.Declare(t, "answers", nil)
			done, started, release := newLedger(), make(chan string, 100), make(chan struct{})
			r := run(t, []string{v.URLAt(p.Addr)}, Queue{Name: "jobs", Concurrency: answers + 4, Processor: ProcessorFunc(func(_ context.Context, d Delivery, s *Scope) error {
				started <- d.MessageID
				if d.ReplyTo != "" {
					<-release
					s.SetResult(Result{Body: []byte(d.MessageID)})
				}
				done.write(d)
				return nil
			})})
			finish := releaser(t, release)
			v.PublishN(t, "jobs", answers, func(i int) amqp.Publishing {
				return amqp.Publishing{MessageId: fmt.Sprint(i), ReplyTo: "answers", CorrelationId: fmt.Sprint("c-", i)}
			})
			for range answers {
				<-started
			}
			// Innocent ones are there before an alarm keeps the test from publishing.
			restore := lose(t, v, p)
			begun := time.Now()
			finish()
			rabbittest.Eventually(t, 10*time.Second, func() bool { m, _ := done.counts(); return m == answers }, "the work is done")
			if name == "its queue is full" || name == "its queue has no leader" {
				v.PublishN(t, "jobs", 100, func(i int) amqp.Publishing { return amqp.Publishing{MessageId: fmt.Sprint("innocent ", i)} })
				start := time.Now()
				rabbittest.Eventually(t, 20*time.Second, func() bool { m, _ := done.counts(); return m == answers+100 }, "the innocent are worked meanwhile")
				t.Logf("100 innocent messages were done within %v", time.Since(start).Round(time.Millisecond))
			}
			<-time.After(time.Until(begun.Add(away)))
			_, repeats := done.counts()
			equal(t, repeats, 0)
			restored := time.Now()
			restore()
			got := make(map[string]int)
			// What the broker has not brought home at once it brings in its next round, after 3 minutes.
			rabbittest.Eventually(t, 5*time.Minute, func() bool {
				for _, d := range v.Drain(t, "answers") {
					if d.CorrelationId != "" {
						got[d.CorrelationId+" "+string(d.Body)]++
					}
				}
				return len(got) == answers
			}, "the replies are there")
			t.Logf("the %d replies were there %v after the fault's end", answers, time.Since(restored).Round(time.Millisecond))
			empty(t, v, "jobs", "jobs.dead", "answers")
			for i := range answers {
				equal(t, got[fmt.Sprintf("c-%d %d", i, i)], 1)
			}
			_, repeats = done.counts()
			equal(t, repeats, 0)
			if took, err := r.end(); err != nil {
				t.Errorf("stopped after %v with %v", took, err)
			}
		})
	}
}

// TestAReplyAtTheShutdownTimeout has work end just before the timeout, with a reply queue
// that is full: the reply waits in the broker, and the next daemon delivers it. The daemon
// has a second for that, which a busy broker may need more than once.
func TestAReplyAtTheShutdownTimeout(t *testing.T) {
	for tries := 1; !replyAtTheShutdownTimeout(t); tries++ {
		if tries == 5 {
			t.Fatal("the reply was given up each time")
		}
	}
}

// replyAtTheShutdownTimeout tells whether the reply came to wait in time.
func replyAtTheShutdownTimeout(t *testing.T) bool {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "answers", nil)
	v.PublishN(t, "answers", 3, func(int) amqp.Publishing { return amqp.Publishing{} })
	v.SetPolicy(t, "full", "^answers$", `{"max-length":1,"overflow":"reject-publish"}`, "queues")
	done, started := newLedger(), make(chan struct{}, 2)
	jobs := Queue{Name: "jobs", Processor: ProcessorFunc(func(ctx context.Context, d Delivery, s *Scope) error {
		started <- struct{}{}
		done.write(d)
		s.SetResult(Result{Body: []byte("done")})
		return nil
	})}
	r := runConfig(t, Config{Nodes: []string{v.URL}, ShutdownTimeout: 500 * time.Millisecond, Queues: []Queue{jobs}}, nil)
	v.Publish(t, "jobs", amqp.Publishing{MessageId: "m", ReplyTo: "answers", CorrelationId: "c"})
	<-started
	_, err := r.end()
	inTime := err == nil
	if want := "msg=stopped finished=1 returned=0 abandoned=0"; contains(r.log, want) != inTime || !inTime && !errors.Is(err, ErrAbandoned) {
		t.Errorf("stopped with %v; does the log have %q: %t", err, want, contains(r.log, want))
	}
	v.SetPolicy(t, "full", "^answers$", `{"max-length":1000,"overflow":"reject-publish"}`, "queues")
	run(t, []string{v.URL}, jobs)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "answers") >= 4 }, "the reply is there")
	if inTime {
		equal(t, len(done.of("m")), 1)
	}
	empty(t, v, "jobs", "jobs.dead")
	return inTime
}

// TestAnAlarmCostsNoAttempts has messages fail while the broker takes nothing: none is
// run again for that or dead-lettered, what succeeds is worked all the time, and when the
// alarm is over all goes on at full speed.
func TestAnAlarmCostsNoAttempts(t *testing.T) {
	const failing, quick = 40, 2000
	lasts := alarmed(t)
	v := rabbittest.NewVhost(t)
	type attempt struct {
		id string
		n  int
	}
	attempts, steps := make(chan attempt, 10_000), make(chan struct{})
	steady, flow := newLedger(), newLedger()
	r := run(t, []string{v.URL},
		Queue{Name: "failing", Unbraked: true, MaxAttempts: 50, RetryMax: time.Second, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
			attempts <- attempt{d.MessageID, d.Attempt}
			if d.Attempt < 4 {
				return errors.New("no")
			}
			return nil
		})},
		Queue{Name: "steady", Concurrency: 1, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
			<-steps
			steady.write(d)
			return nil
		})},
		Queue{Name: "flow", Processor: flow.done()})
	// flows publishes messages that are quickly done, and returns how long all of them took.
	flows := func(sent int) time.Duration {
		v.PublishN(t, "flow", quick, func(i int) amqp.Publishing { return numbered(sent + i) })
		start := time.Now()
		rabbittest.Eventually(t, time.Minute, func() bool { m, _ := flow.counts(); return m == sent+quick }, "the quick ones are done")
		return time.Since(start)
	}
	before := flows(0)
	step := releaser(t, steps)
	v.PublishN(t, "steady", 300, numbered)
	v.PublishN(t, "failing", failing, numbered)
	if err := v.Node.MemoryAlarm(true); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for range 200 {
		steps <- struct{}{}
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { m, _ := steady.counts(); return m >= 199 }, "what succeeds is worked under the alarm")
	<-time.After(time.Until(begun.Add(lasts)))
	if err := v.Node.MemoryAlarm(false); err != nil {
		t.Fatal(err)
	}
	ended := time.Now()
	step()
	seen := make(map[attempt]int)
	rabbittest.Eventually(t, 30*time.Second, func() bool {
		for {
			select {
			case a := <-attempts:
				seen[a]++
			default:
				return len(seen) == 4*failing
			}
		}
	}, "all have had their four attempts")
	// Three waits of a second each, at most, were left.
	if took := time.Since(ended); took > 3*time.Second+rabbittest.Soon {
		t.Errorf("all were done %v after the alarm, want 3 s and little more", took)
	} else {
		t.Logf("all were done %v after the alarm of %v", took.Round(time.Millisecond), lasts)
	}
	after := flows(quick)
	t.Logf("%d quick messages took %v before the alarm, and %v %v after it", quick, before.Round(time.Millisecond), after.Round(time.Millisecond), time.Since(ended).Round(time.Millisecond))
	if after > 10*before+10*time.Second {
		t.Errorf("%d quick messages took %v after the alarm, and %v before it", quick, after, before)
	}
	empty(t, v, "failing", "failing.dead", "steady", "steady.dead", "flow", "flow.dead")
	for a, times := range seen {
		if times != 1 {
			t.Errorf("attempt %d of message %s was made %d times", a.n, a.id, times)
		}
	}
	for _, l := range []*ledger{steady, flow} {
		_, repeats := l.counts()
		equal(t, repeats, 0)
	}
	equal(t, strings.Count(r.log.String(), "connection lost"), 0)
}

// TestPublishesGivenUpLeaveNoChannels ends thousands of publishes before they are
// confirmed, to a queue that never does and to one that would soon.
func TestPublishesGivenUpLeaveNoChannels(t *testing.T) {
	t.Parallel()
	each := long(1500, 50_000)
	v := rabbittest.NewVhost(t)
	n := newNeighbour()
	r := run(t, []string{v.URL}, Queue{Name: "silent", Processor: noop}, Queue{Name: "quick", Processor: noop}, n.queue())
	n.works(t, v)
	restore := v.LoseLeader(t, "silent")
	before, channelsBefore := v.Connections(t)
	start := time.Now()
	for queue, patience := range map[string]time.Duration{"silent": 20 * time.Millisecond, "quick": 500 * time.Microsecond} {
		var callers sync.WaitGroup
		for range 40 {
			callers.Go(func() {
				for range each / 40 {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					_ = r.Publish(ctx, Message{RoutingKey: queue, Body: []byte("{}")})
					cancel()
				}
			})
		}
		callers.Wait()
	}
	took := time.Since(start)
	n.works(t, v)
	// Up to 64 are kept for the next publishes.
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		connections, channels := v.Connections(t)
		return connections == before && channels <= channelsBefore+64 // one may be there for a moment, to look at silent
	}, "the channels of what was given up are gone, and no connection stays")
	after, channelsAfter := v.Connections(t)
	t.Logf("%d publishes within %v: %d connections and %d channels before, %d and %d after", 2*each, took.Round(time.Millisecond), before, channelsBefore, after, channelsAfter)
	restore()
	if err := r.Publish(t.Context(), Message{RoutingKey: "silent", Body: []byte("{}")}); err != nil {
		t.Error(err)
	}
	n.undisturbed(t, r)
}
