package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/internal/halt"
	"github.com/warrenmq/warren/consumer/internal/inflight"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// operatorOf is a client of the fleet as an operator is one.
func operatorOf(t *testing.T, url string) *fleet.Client {
	t.Helper()
	c, err := fleet.Dial(context.Background(), "test", "", []string{url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// paused are the daemons' first queues that are paused.
func paused(daemons ...*running) (n int) {
	for _, r := range daemons {
		if r.Status().Queues[0].Paused != nil {
			n++
		}
	}
	return n
}

func TestPauseIsOfTheWholeFleet(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	var worked, neighbours atomic.Int64
	count := func(n *atomic.Int64) Processor {
		return ProcessorFunc(func(context.Context, Delivery, *Scope) error { n.Add(1); return nil })
	}
	queues := []Queue{{Name: "emails", Processor: count(&worked)}, {Name: "other", Processor: count(&neighbours)}}
	first, second := run(t, []string{v.URL}, queues...), run(t, []string{v.URL}, queues...)
	o := operatorOf(t, v.URL)
	if err := o.Pause(t.Context(), "emails", "mail server moves", 0); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Consumers(t, "emails") == 0 && paused(first, second) == 2 }, "nobody consumes the queue")
	// One that is started now has never consumed it, and one that connects anew does not.
	third := runQueues(t, []string{v.URL}, 1, queues...)
	v.CloseConnections(t, "maintenance")
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		return strings.Count(first.log.String(), "msg=connected") >= 2 && v.Consumers(t, "other") == 3 && paused(first, second, third) == 3
	}, "they are back")
	publishNumbered(t, v, "emails", 50)
	publishNumbered(t, v, "other", 50)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return neighbours.Load() == 50 }, "the neighbour is worked")
	if n := v.Ready(t, "emails"); n != 50 || worked.Load() != 0 || paused(first, second, third) != 3 {
		t.Errorf("%d messages wait and %d were worked, %d daemons have paused; want 50, 0 and 3", n, worked.Load(), paused(first, second, third))
	}
	q := first.Status().Queues[0]
	if p := q.Paused; q.Reason != "" || p == nil || p.Why != "mail server moves" || !strings.HasPrefix(p.By, "guest (") || p.Since.IsZero() {
		t.Errorf("the queue's status is %+v with the pause %+v, want no fault, and by whom and why", q, p)
	}
	if !contains(first.log, `msg="the queue is paused: nothing is taken from it until it is resumed" queue=emails by="guest (`) {
		t.Error("the log does not say that it is paused, and by whom")
	}
	if strings.Contains(third.log.String()[:strings.Index(third.log.String(), "the queue is paused")], "msg=consuming queue=emails") {
		t.Error("the third has consumed before it looked")
	}

	if err := operatorOf(t, v.URL).Resume(t.Context(), "emails"); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return worked.Load() == 50 && v.Consumers(t, "emails") == 3 }, "it is worked again by all")
	empty(t, v, "emails", "emails.dead", "other.dead")
}

// What is in flight is finished, and what was handed out ahead goes back.
func TestPauseFinishesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	begun, finish := make(chan string, 10), make(chan struct{})
	r := run(t, []string{v.URL}, Queue{Name: "emails", Concurrency: 2, Prefetch: 5, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		begun <- d.MessageID
		<-finish
		return nil
	})})
	publishNumbered(t, v, "emails", 7)
	<-begun
	<-begun
	o := operatorOf(t, v.URL)
	if err := o.Pause(t.Context(), "emails", "", 0); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "emails") == 5 && v.Unacked(t, "emails") == 2 }, "what was not started is back")
	close(finish)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Unacked(t, "emails") == 0 && v.Ready(t, "emails") == 5 }, "what was started is finished")
	if took, err := r.end(); err != nil || took > rabbittest.Soon {
		t.Errorf("a paused daemon ended after %v: %v", took, err)
	}
	if n := v.Ready(t, "emails"); n != 5 {
		t.Errorf("%d messages are left, want 5", n)
	}
}

// A pause ends by the broker's clock, whether or not a daemon is there.
func TestPauseEndsByItself(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	var worked atomic.Int64
	queue := Queue{Name: "emails", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { worked.Add(1); return nil })}
	declareAll(t, v, "emails")
	publishNumbered(t, v, "emails", 3)
	o := operatorOf(t, v.URL)
	for _, p := range []struct {
		queue string
		lasts time.Duration
	}{{"emails", 20 * time.Second}, {"nobody", 10 * time.Millisecond}} {
		if err := o.Pause(t.Context(), p.queue, "", p.lasts); err != nil {
			t.Fatal(err)
		}
	}
	// Another one counts in its stead.
	if err := o.Pause(t.Context(), "emails", "second", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if p, err := o.Paused(t.Context(), "emails"); err != nil || p == nil || p.Why != "second" {
		t.Errorf("the pause is %+v (%v), want the second", p, err)
	}
	r := runQueues(t, []string{v.URL}, 0, queue)
	rabbittest.Eventually(t, time.Minute, func() bool { return worked.Load() == 3 }, "it is worked after the pause")
	if paused(r) != 0 {
		t.Error("it is still called paused")
	}
	late := run(t, []string{v.URL}, Queue{Name: "nobody", Processor: queue.Processor})
	if paused(late) != 0 {
		t.Error("a pause that has ended before counts")
	}
	for _, queue := range []string{"emails", "nobody"} {
		rabbittest.Eventually(t, time.Minute, func() bool {
			// To look into a queue that a daemon deletes in this moment can end the connection.
			c, err := fleet.Dial(t.Context(), "test", "", []string{v.URL})
			if err != nil {
				return false
			}
			defer c.Close()
			p, err := c.Paused(t.Context(), queue)
			return p == nil && err == nil
		}, "nothing is left of the pause of "+queue)
	}
}

// Only those whom the daemon obeys may pause, and others are named in the log.
func TestStrangersMayNotPause(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	r := run(t, []string{v.URL}, Queue{Name: "emails", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return nil })})
	stranger := operatorOf(t, v.AddUser(t, "mallory", "secret", ".*", ".*", ".*"))
	if err := stranger.Pause(t.Context(), "emails", "", 0); err != nil {
		t.Fatal(err)
	}
	const refused = `level=WARN msg="refused what somebody asks of the daemons" user=mallory verb=paused queue=emails`
	rabbittest.Eventually(t, 10*time.Second, func() bool { return contains(r.log, refused) }, "the attempt is logged")

	// Nor can one who does not say who it is, nor in somebody else's name.
	ch := v.Channel(t)
	body, _ := json.Marshal(fleet.Request{Verb: fleet.VerbPaused, Queue: "emails", Pause: &fleet.Pause{}})
	if err := ch.PublishWithContext(t.Context(), fleet.Exchange, "", false, false, amqp.Publishing{Body: body}); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return contains(r.log, `the daemons" user="" verb=paused`) }, "that is logged as well")
	v.CloseConnections(t, "maintenance") // it looks at what is there
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		return contains(r.log, `msg="refused to pause the queue`) && v.Consumers(t, "emails") == 1
	}, "what lies there is refused")
	if paused(r) != 0 {
		t.Error("the queue is paused")
	}
}

func TestPauseOutlivesTheBrokersRestart(t *testing.T) {
	v := rabbittest.NewVhost(t)
	r := run(t, []string{v.URL}, Queue{Name: "emails", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return nil })})
	o := operatorOf(t, v.URL)
	if err := o.Pause(t.Context(), "emails", "it is known why", time.Hour); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return paused(r) == 1 }, "the queue is paused")
	v.Node.Kill()
	if err := v.Node.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	late := runQueues(t, []string{v.URL}, 0, Queue{Name: "emails", Processor: r.cfg.Queues[0].Processor})
	rabbittest.Eventually(t, time.Minute, func() bool { return strings.Count(r.log.String(), "msg=connected") >= 2 && paused(r, late) == 2 }, "both have it paused")
	const why = `msg="the queue is paused: nothing is taken from it until it is resumed" queue=emails by="guest (vm)" why="it is known why"`
	rabbittest.Eventually(t, 10*time.Second, func() bool { // it may have looked while the other had the message in hand
		p := late.Status().Queues[0].Paused
		return p != nil && p.Why == "it is known why" && !p.Until.IsZero() && contains(late.log, why)
	}, "the late one knows why, and says so")
	equal(t, v.Consumers(t, "emails"), 0)
}

// A daemon that may not listen works on, says so once, and looks what is paused.
func TestWorksWithoutControl(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declareAll(t, v, "emails")
	o := operatorOf(t, v.URL)
	if err := o.Pause(t.Context(), "emails", "", 0); err != nil {
		t.Fatal(err)
	}
	url := v.AddUser(t, "limited", "password", `^(emails.*|warren\.(wait|alive|paused).*)$`, `^(amq\.default|emails|warren\.(wait|alive).*)$`, `^(emails|warren\.(wait|paused).*)$`)
	cfg := Config{Nodes: []string{url}, Queues: []Queue{{Name: "emails", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return nil })}}, ControlUsers: []string{"guest"}}
	r := runUntil(t, cfg, 0, nil)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return paused(r) == 1 }, "it has found that the queue is paused")
	const unheard = "what operators ask of all daemons is not heard here"
	rabbittest.Eventually(t, 10*time.Second, func() bool { return contains(r.log, unheard) }, "it says that it is not heard")
	if n := strings.Count(r.log.String(), unheard); n != 1 || !contains(r.log, "warren.control") {
		t.Errorf("it says %d times that it is not heard, want once, with what is not permitted", n)
	}
}

// A daemon that may not look at a pause would go on working a queue that is paused: it says so.
func TestMayNotLookAtAPause(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declareAll(t, v, "emails")
	if err := operatorOf(t, v.URL).Pause(t.Context(), "emails", "", 0); err != nil {
		t.Fatal(err)
	}
	url := v.AddUser(t, "blind", "password", ".*", ".*", `^(emails|warren\.(wait|control).*)$`)
	r := run(t, []string{url}, Queue{Name: "emails", Processor: newLedger().done()})
	const blind = `level=WARN msg="cannot look whether the queue is paused, it stays as it is" queue=emails error="not permitted: `
	rabbittest.Eventually(t, 20*time.Second, func() bool { return contains(r.log, blind) && contains(r.log, "warren.paused.emails") }, "it says that it cannot look")
}

// TestWhatIsRejectedWhileItsQueueIsPaused has work fail for good on a channel that is left,
// whose message Warren cannot publish again: the broker is told to dead-letter it.
func TestWhatIsRejectedWhileItsQueueIsPaused(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	started, release := make(chan struct{}, 2), make(chan struct{})
	r := run(t, []string{v.URL}, Queue{Name: "large", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error {
		started <- struct{}{}
		<-release
		return Permanent(errors.New("no use"))
	})})
	raw := rabbittest.DialRaw(t, v.URL)
	if err := raw.Publish("", "large", rabbittest.RawProperties(map[string]any{"headers": fullHeaders(raw.FrameMax(), 0), "delivery-mode": byte(2)}), nil); err != nil {
		t.Fatal(err)
	}
	<-started
	l := r.loops[0]
	l.state.Halt.Pause(&halt.Pause{})
	rabbittest.Eventually(t, 5*time.Second, func() bool {
		return inflight.Ask(t.Context(), l.calls, func() bool { return len(l.leaving) == 1 })
	}, "the channel is left")
	close(release)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "large")+v.Ready(t, "large.dead") == 1 }, "it is settled")
	equal(t, v.Ready(t, "large.dead"), 1)
}
