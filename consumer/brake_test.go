package consumer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/brake"
	"github.com/warrenmq/warren/internal/rabbittest"
)

const (
	looksDown = "what the processor depends on looks down"
	isBack    = "what the processor depends on is back"
)

// outageOf is how long outages take: half a minute, or WARREN_TEST_OUTAGE.
func outageOf(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("WARREN_TEST_OUTAGE")
	if text == "" {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A dependency is what processors need, and that may be down.
type dependency struct {
	takes            time.Duration         // of an attempt; 2 ms at least
	fault            atomic.Pointer[error] // nil: it is up
	tried, done      atomic.Int64
	working, busiest atomic.Int64 // at once
}

func (p *dependency) down(err error) { p.fault.Store(&err) }

func (p *dependency) up() { p.busiest.Store(0); p.fault.Store(nil) }

func (p *dependency) Process(context.Context, Delivery, *Scope) error {
	p.tried.Add(1)
	if fault := p.fault.Load(); fault != nil {
		return *fault
	}
	n := p.working.Add(1)
	defer p.working.Add(-1)
	for most := p.busiest.Load(); n > most && !p.busiest.CompareAndSwap(most, n); most = p.busiest.Load() {
	}
	<-time.After(max(p.takes, 2*time.Millisecond))
	p.done.Add(1)
	return nil
}

func publishNumbered(t *testing.T, v *rabbittest.Vhost, queue string, n int) {
	t.Helper()
	v.PublishN(t, queue, n, func(i int) amqp.Publishing {
		return amqp.Publishing{MessageId: strconv.Itoa(i), DeliveryMode: amqp.Persistent}
	})
}

// TestOutageBrake has what a queue needs be down from the start, with 5,000 messages that
// may be tried three times each, and a neighbour that needs something else.
func TestOutageBrake(t *testing.T) {
	t.Parallel()
	const messages = 5000
	for name, c := range map[string]struct {
		fault error
		until int // attempts before the brake is on, but for those in all slots
	}{
		"unavailable": {Unavailable(errors.New("connection refused")), brake.Unavailables},
		"failing":     {errors.New("500 Internal Server Error"), brake.Failures},
		"database":    {fmt.Errorf("%w: connection refused", ErrDatabase), brake.Unavailables},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outage := outageOf(t)
			v := rabbittest.NewVhost(t)
			declareAll(t, v, "mails")
			publishNumbered(t, v, "mails", messages)
			var mailServer, other dependency
			other.takes = 20 * time.Millisecond // or its messages may come no faster than they are worked
			mailServer.down(c.fault)
			began := time.Now()
			r := run(t, []string{v.URL},
				Queue{Name: "mails", MaxAttempts: 3, Processor: &mailServer},
				Queue{Name: "neighbours", Processor: &other})
			rabbittest.Eventually(t, 10*time.Second, func() bool { return !r.Status().Queues[0].BrakedAt.IsZero() }, "the brake is on")
			t.Logf("the brake was on after %v", time.Since(began).Round(time.Millisecond))
			since := r.Status().Queues[0].BrakedAt
			rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Unacked(t, "mails") <= 1 }, "what was handed out ahead is returned")

			// The neighbour is worked meanwhile as if nothing were.
			start := time.Now()
			publishNumbered(t, v, "neighbours", 1000)
			rabbittest.Eventually(t, 30*time.Second, func() bool { return other.done.Load() == 1000 }, "the neighbour is worked")
			t.Logf("the neighbour's 1,000 messages took %v", time.Since(start).Round(time.Millisecond))
			if other.busiest.Load() != 8 {
				t.Errorf("the neighbour had %d slots, want 8", other.busiest.Load())
			}

			// Another connection does not take the brake off.
			v.CloseConnections(t, "maintenance")
			rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Count(r.log.String(), "msg=consuming") >= 4 }, "the queues are consumed again")
			<-time.After(time.Until(began.Add(outage)))
			if got := r.Status().Queues[0]; !got.BrakedAt.Equal(since) || got.Fault == "" || got.Reason != "" {
				t.Errorf("the status is %+v, want braked since %v", got, since)
			}
			lasted := time.Since(began)
			tried, back := mailServer.tried.Load(), time.Now()
			mailServer.up()
			rabbittest.Eventually(t, 20*time.Second, func() bool { return mailServer.busiest.Load() == 8 }, "all slots work")
			again := time.Since(back)
			bound := int64(c.until + 2*8 + int(lasted/brake.ProbeEvery) + 1)
			t.Logf("%d attempts in %v of outage (%d allowed), at full speed after %v", tried, lasted.Round(time.Second), bound, again.Round(time.Millisecond))
			if tried > bound {
				t.Errorf("%d attempts were made, want %d at most", tried, bound)
			}
			if again > rabbittest.Soon {
				t.Errorf("at full speed %v after the return, want soon", again)
			}
			rabbittest.Eventually(t, time.Minute, func() bool { return mailServer.done.Load() == messages }, "every message is done")
			empty(t, v, "mails", "mails.dead", "neighbours.dead")
			if began, ended := strings.Count(r.log.String(), looksDown), strings.Count(r.log.String(), isBack); began != 1 || ended != 1 {
				t.Errorf("the log has %d beginnings and %d ends, want one of each", began, ended)
			}
		})
	}
}

// What is no outage is not taken for one.
func TestNoOutageNoBrake(t *testing.T) {
	t.Parallel()
	const messages = 2000
	half := func(d Delivery) bool { n, _ := strconv.Atoi(d.MessageID); return n*7919%1009%2 == 0 }
	for name, c := range map[string]struct {
		fault func(Delivery) error
		dead  int
	}{
		"a deploy that fails all for good": {func(Delivery) error { return Permanent(errors.New("no such column")) }, messages},
		"a deploy that reads none":         {func(Delivery) error { return Undecodable(errors.New("not JSON")) }, messages},
		"half failing": {func(d Delivery) error {
			if half(d) {
				return errors.New("its own fault")
			}
			return nil
		}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			var ended atomic.Int64
			r := run(t, []string{v.URL}, Queue{Name: "orders", MaxAttempts: 2, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
				err := c.fault(d)
				if err == nil || d.Attempt == 2 || c.dead == messages {
					ended.Add(1)
				}
				return err
			})})
			publishNumbered(t, v, "orders", messages)
			rabbittest.Eventually(t, time.Minute, func() bool { return ended.Load() == messages }, "every message is worked")
			if c.dead >= 0 {
				rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "orders.dead") == c.dead }, "the dead letters are there")
			}
			if contains(r.log, looksDown) {
				t.Error("it was taken for an outage")
			}
		})
	}
}

func TestBrakedDaemonStopsQuickly(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declareAll(t, v, "mails")
	publishNumbered(t, v, "mails", 100)
	var mailServer dependency
	mailServer.down(Unavailable(errors.New("connection refused")))
	r := run(t, []string{v.URL}, Queue{Name: "mails", Processor: &mailServer})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return contains(r.log, looksDown) }, "the brake is on")
	took, err := r.end()
	if err != nil || took > rabbittest.Soon {
		t.Errorf("ended after %v: %v", took, err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "mails") == 100 }, "every message is in its queue")
}

func TestBrakeCanBeTakenOff(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	var mailServer dependency
	mailServer.down(Unavailable(errors.New("connection refused")))
	r := run(t, []string{v.URL}, Queue{Name: "mails", Unbraked: true, Processor: &mailServer})
	publishNumbered(t, v, "mails", 100)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return mailServer.tried.Load() > 200 }, "all are tried")
	if contains(r.log, looksDown) {
		t.Error("it was braked")
	}
}
