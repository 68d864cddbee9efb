package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A soaked ledger knows which runs of a message ended, and which began after that.
type soaked struct {
	mu       sync.Mutex
	running  map[string]int
	finished map[string]bool
	repeats  map[string]string // by message and attempt: what was wrong
	done     int
}

func newSoaked() *soaked {
	return &soaked{running: map[string]int{}, finished: map[string]bool{}, repeats: map[string]string{}}
}

// process takes a while, and fails the first attempt of every fourth message.
func (s *soaked) process(_ context.Context, d Delivery, _ *Scope) error {
	run := fmt.Sprint(d.MessageID, " attempt ", d.Attempt)
	s.mu.Lock()
	switch {
	case s.finished[run]:
		s.repeats[run] = "begun again when it had ended"
	case s.running[run] > 0:
		s.repeats[run] = "begun beside itself"
	}
	s.running[run]++
	s.mu.Unlock()
	<-time.After(time.Duration(rand.IntN(20)) * time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[run]--
	first := !s.finished[run]
	s.finished[run] = true
	if d.Type == "fails once" && d.Attempt == 1 {
		return errors.New("fails once")
	}
	if first {
		s.done++
	}
	return nil
}

func (s *soaked) count() (done, repeats int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done, len(s.repeats)
}

// TestSoak lets messages with delays and failures flow while connections are cut again
// and again. One daemon repeats nothing; of two, each may begin with what the other had,
// since neither knows what the other has done.
func TestSoak(t *testing.T) {
	messages, cuts := long(3000, 12_000), long(15, 60)
	for name, daemons := range map[string]int{"one daemon": 1, "two daemons": 2} {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			book := newSoaked()
			var proxies []*rabbittest.Proxy
			var logs []*logBuffer
			for range daemons {
				p := rabbittest.NewProxy(t, v.Node.Addr())
				r := run(t, []string{v.URLAt(p.Addr)}, Queue{Name: "soak", Concurrency: 16, Prefetch: 64, Processor: ProcessorFunc(book.process)})
				proxies, logs = append(proxies, p), append(logs, r.log)
			}
			start := time.Now()
			connected := func() (n int) {
				for _, log := range logs {
					n += strings.Count(log.String(), "msg=connected")
				}
				return n
			}
			batch := messages / cuts
			for cut := range cuts {
				v.PublishN(t, "soak", batch, func(i int) amqp.Publishing {
					m := amqp.Publishing{MessageId: fmt.Sprint(cut*batch + i), DeliveryMode: amqp.Persistent}
					switch i % 4 {
					case 0:
						m.Type = "fails once"
					case 1:
						m.Headers = amqp.Table{"x-delay": int64(rand.IntN(4000))}
					}
					return m
				})
				before := connected()
				proxies[cut%daemons].Cut()
				rabbittest.Eventually(t, 30*time.Second, func() bool { return connected() > before }, "connected again")
			}
			sent := batch * cuts
			rabbittest.Eventually(t, 3*time.Minute, func() bool { done, _ := book.count(); return done == sent }, "all are done")
			empty(t, v, "soak", "soak.dead")
			recognised := 0
			for _, log := range logs {
				recognised += strings.Count(log.String(), "acknowledged without running again") + strings.Count(log.String(), "held until that has ended")
			}
			_, repeats := book.count()
			waited := 0
			for run := range book.repeats {
				if id, _ := strconv.Atoi(strings.Fields(run)[0]); id%batch%4 < 2 { // fails once, or is delayed
					waited++
				}
			}
			t.Logf("%d messages and %d cuts within %v: %d begun again, %d of them from a wait queue; %d redeliveries recognised",
				sent, cuts, time.Since(start).Round(time.Second), repeats, waited, recognised)
			if most := sent / 300; daemons == 1 && (repeats > waited || waited > most) {
				t.Errorf("%d runs were repeated, %d of them from a wait queue, want none and %d at most: %v", repeats, waited, most, book.repeats)
			}
			// At most what a worker had under way when a connection was cut.
			if most := cuts * 64; repeats > most {
				t.Errorf("%d runs were repeated, want %d at most", repeats, most)
			}
		})
	}
}

// TestUpgradeOfTheSharedWaits leaves messages in the wait queues that an earlier version
// shared between all work queues, as it left them there.
func TestUpgradeOfTheSharedWaits(t *testing.T) {
	messages := long(500, 10_000)
	v := rabbittest.NewVhost(t)
	done := newLedger()
	_, _ = run(t, []string{v.URL}, Queue{Name: "orders", Processor: noop}).end()
	ch := v.Channel(t)
	waits := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}
	for _, d := range waits {
		name := sharedWait(d)
		if err := ch.ExchangeDeclare(name, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		v.Declare(t, name, amqp.Table{
			amqp.QueueMessageTTLArg: d.Milliseconds(), "x-dead-letter-exchange": "", "x-dead-letter-strategy": "at-least-once",
			amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish, "x-delivery-limit": int64(1_000_000),
		})
		if err := ch.QueueBind(name, "", name, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	due := make(map[string]time.Time, messages)
	var last *amqp.DeferredConfirmation
	for i := range messages {
		id := fmt.Sprint(i)
		// Some have waited for the first step of several.
		step := waits[i%len(waits)]
		due[id] = time.Now().Add(step + time.Duration(i%7)*500*time.Millisecond)
		var err error
		last, err = ch.PublishWithDeferredConfirm(sharedWait(step), "orders", true, false, amqp.Publishing{
			MessageId: id, DeliveryMode: amqp.Persistent, Body: []byte("{}"),
			Headers: amqp.Table{
				"x-warren-attempt": int64(i % 3), "x-warren-not-before": due[id].UnixMilli(), "x-warren-exchange": "", "x-warren-routing-key": "orders",
				"x-warren-error": "no", "x-warren-first-failed-at": int64(1_700_000_000_000), "x-warren-failed-at": int64(1_700_000_000_000), "x-warren-worker": "vm1 0.9",
				"x-warren-original-x-delay": int64(1000), "x-warren-original-expiration": "60000",
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !last.Wait() {
		t.Fatal("the last was not confirmed")
	}
	n := newNeighbour()
	r := run(t, []string{v.URL}, Queue{Name: "orders", Concurrency: 64, Processor: done.done()}, n.queue())
	n.works(t, v)
	rabbittest.Eventually(t, time.Minute, func() bool { m, _ := done.counts(); return m == messages }, "all are done")
	for _, d := range waits {
		empty(t, v, sharedWait(d))
	}
	empty(t, v, "orders", "orders.dead")
	_, doubled := done.counts()
	equal(t, doubled, 0)
	var latest time.Duration
	for id, at := range due {
		late := done.of(id)[0].Sub(at)
		latest = max(latest, late)
		if late < -time.Millisecond {
			t.Errorf("message %s came %v early", id, -late)
		}
	}
	t.Logf("%d messages came home, the latest %v late", messages, latest.Round(time.Millisecond))
	if latest > 20*time.Second {
		t.Errorf("the latest was %v late, want 20 s at most", latest)
	}
	n.undisturbed(t, r)
}

func sharedWait(d time.Duration) string { return fmt.Sprintf("warren.wait.%ds", int64(d/time.Second)) }
