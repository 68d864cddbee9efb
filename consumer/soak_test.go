package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// A soaked ledger knows each run of each attempt at each message, and who has published a
// copy for the next.
type soaked struct {
	mu     sync.Mutex
	runs   map[attempted][]*soakedRun
	parked map[attempted]map[int]bool // by the attempts behind it: which daemons
	done   int
}

type attempted struct {
	id      string
	attempt int
}

type soakedRun struct {
	daemon int
	copy   any // what names the copy; nil: it is as its publisher sent it
	ended  bool
	beside []*soakedRun // those that went before
	late   bool         // one of them had ended
}

func newSoaked() *soaked {
	return &soaked{runs: make(map[attempted][]*soakedRun), parked: make(map[attempted]map[int]bool)}
}

// process takes a while, and fails the first attempt of every fourth message.
func (s *soaked) process(daemon int) ProcessorFunc {
	return func(_ context.Context, d Delivery, _ *Scope) error {
		s.mu.Lock()
		key := attempted{d.MessageID, d.Attempt}
		r := &soakedRun{daemon: daemon, copy: d.Headers[broker.HeaderCopy], beside: slices.Clone(s.runs[key])}
		r.late = slices.ContainsFunc(r.beside, func(o *soakedRun) bool { return o.ended })
		s.runs[key] = append(s.runs[key], r)
		s.mu.Unlock()
		<-time.After(time.Duration(rand.IntN(20)) * time.Millisecond)
		s.mu.Lock()
		defer s.mu.Unlock()
		fails := d.Type == "fails once" && d.Attempt == 1
		if !fails && !slices.ContainsFunc(s.runs[key], func(o *soakedRun) bool { return o.ended }) {
			s.done++
		}
		r.ended = true
		if fails {
			return errors.New("fails once")
		}
		return nil
	}
}

func (s *soaked) finished() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// soakObserver writes down who has published a copy that waits.
type soakObserver struct {
	*soaked
	daemon int
}

func (o soakObserver) Observe(t Transition) {
	if t.State != Waiting {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	key := attempted{t.MessageID, t.Attempt}
	if o.parked[key] == nil {
		o.parked[key] = make(map[int]bool)
	}
	o.parked[key][o.daemon] = true
}

// Why an attempt is made twice. No daemon can know what another one has done, but by the
// inbox: so the first two cannot be helped where two daemons work a queue.
const (
	otherHadIt   = "the other daemon had it when its connection was cut"
	bothHaveOne  = "one daemon had published a copy of it when its connection was cut, and the other was handed the one before"
	beganAgain   = "the daemon began again what it had finished"
	besideItself = "the daemon worked it beside itself"
)

// repeats counts the attempts that were made twice, by why, and tells of those that must
// not be.
func (s *soaked) repeats(t *testing.T) (total int, why map[string]int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	why = make(map[string]int)
	fault := func(is string, key attempted, r *soakedRun) {
		why[is]++
		t.Errorf("%s: message %s, attempt %d, copy %v, daemon %d", is, key.id, key.attempt, r.copy, r.daemon)
		for _, o := range r.beside {
			t.Logf("beside it: copy %v, daemon %d, ended %t", o.copy, o.daemon, o.ended)
		}
		t.Logf("published for it by daemons %v", s.parked[attempted{key.id, key.attempt - 1}])
	}
	for key, runs := range s.runs {
		for _, r := range runs[1:] {
			total++
			had := maps.Clone(s.parked[attempted{key.id, key.attempt - 1}]) // which daemons, one copy or another
			if had == nil {
				had = make(map[int]bool)
			}
			for _, o := range append(r.beside, r) {
				had[o.daemon] = true
			}
			same := slices.ContainsFunc(r.beside, func(o *soakedRun) bool { return o.copy == r.copy })
			own := slices.ContainsFunc(r.beside, func(o *soakedRun) bool { return o.daemon == r.daemon && o.copy == r.copy })
			switch {
			case same && !own:
				why[otherHadIt]++
			case !same && len(had) > 1:
				why[bothHaveOne]++
			case r.late:
				fault(beganAgain, key, r)
			default:
				fault(besideItself, key, r)
			}
		}
	}
	return total, why
}

// TestSoak lets messages with delays and failures flow while connections are cut again
// and again. One daemon repeats nothing; of two, each may begin with what the other had.
// Nothing is acknowledged twice, and each attempt has a span.
func TestSoak(t *testing.T) {
	t.Parallel()
	messages, cuts := long(2000, 12_000), long(10, 60)
	for name, daemons := range map[string]int{"one daemon": 1, "two daemons": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := rabbittest.NewVhost(t)
			book := newSoaked()
			var proxies []*rabbittest.Proxy
			var logs []*logBuffer
			var running []*running
			recorder := tracetest.NewSpanRecorder()
			for i := range daemons {
				p := rabbittest.NewProxy(t, v.Node.Addr())
				r := runConfig(t, Config{
					Nodes: []string{v.URLAt(p.Addr)}, Worker: fmt.Sprint("vm", i, " 1.0"), Observer: soakObserver{book, i},
					Telemetry: Telemetry{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))},
					Queues:    []Queue{{Name: "soak", Concurrency: 16, Prefetch: 64, Processor: book.process(i)}},
				}, nil)
				proxies, logs, running = append(proxies, p), append(logs, r.log), append(running, r)
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
			rabbittest.Eventually(t, 3*time.Minute, func() bool { return book.finished() == sent }, "all are done")
			empty(t, v, "soak", "soak.dead", "warren.wait.soak.1s", "warren.wait.soak.2s")
			for _, r := range running { // a repeat may still be on its way between two queues
				_, _ = r.end()
			}
			recognised := 0
			for i, log := range logs {
				recognised += strings.Count(log.String(), "acknowledged without running again") + strings.Count(log.String(), "held until that has ended")
				if strings.Contains(log.String(), "unknown delivery tag") {
					t.Errorf("daemon %d settled a delivery twice", i)
				}
			}
			repeats, why := book.repeats(t)
			t.Logf("%d messages and %d cuts within %v: %d redeliveries and second copies recognised, %d attempts made again: %v",
				sent, cuts, time.Since(start).Round(time.Second), recognised, repeats, why)
			if daemons == 1 {
				equal(t, why, map[string]int{})
			}
			// At most what the daemon had in hand whose connection was cut.
			if most := cuts * 64; repeats > most {
				t.Errorf("%d attempts were made again, want %d at most", repeats, most)
			}
			runs, spans := 0, 0
			for _, r := range book.runs {
				runs += len(r)
			}
			for _, s := range recorder.Ended() {
				if s.Name() == "process soak" {
					spans++
				}
			}
			equal(t, spans, runs)
		})
	}
}

// TestUpgradeOfTheSharedWaits leaves messages in the wait queues that an earlier version
// shared between all work queues, as it left them there.
func TestUpgradeOfTheSharedWaits(t *testing.T) {
	t.Parallel()
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
		due[id] = wallClock().Add(step + time.Duration(i%7)*500*time.Millisecond)
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
