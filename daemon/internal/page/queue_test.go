package page

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/state"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// work has a consumer work the queue orders until the test ends: what has a message-id that begins
// with stuck goes on until it is cancelled, and bad ones fail, and wait for an hour then.
func work(t *testing.T, v *rabbittest.Vhost) {
	t.Helper()
	process := func(ctx context.Context, d consumer.Delivery, _ *consumer.Scope) error {
		switch {
		case strings.HasPrefix(d.MessageID, "stuck"):
			<-ctx.Done()
			return context.Cause(ctx)
		case strings.HasPrefix(d.MessageID, "bad"):
			return errors.New("451 " + hostile)
		}
		return nil
	}
	c, err := consumer.New(consumer.Config{
		Nodes: []string{v.URL}, Program: "warren", Version: "v1",
		Queues: []consumer.Queue{{Name: "orders", Processor: consumer.ProcessorFunc(process), Concurrency: 4, RetryBase: time.Hour, Settings: "abcd"}},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Run(ctx) // what it says is not of interest
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Consumers(t, "orders") == 1 }, "the queue is consumed")
}

// A fleet is seen and steered through the page.
func TestQueueView(t *testing.T) {
	t.Parallel()
	v, p, log := withBroker(t, 3)
	p.cfg.Settings = map[string][]string{"orders": {"WARREN_QUEUE_ORDERS_CONCURRENCY=4"}}
	work(t, v)
	v.Publish(t, "orders", amqp.Publishing{MessageId: "stuck-<b>1"}, amqp.Publishing{MessageId: "bad-1", Type: hostile}, amqp.Publishing{MessageId: "good"})
	who := signedIn(t, p, tokens.Admin)
	var body string
	see := func(what string, at string, texts ...string) {
		t.Helper()
		rabbittest.Eventually(t, rabbittest.Soon, func() bool {
			body = who.get(at)
			for _, text := range texts {
				if !strings.Contains(body, text) {
					return false
				}
			}
			return true
		}, what)
		wantText(t, body)
	}
	see("the overview", "/ui/", `data-testid="queue-row"`, "consumed by 1 daemon", `data-testid="daemon-row"`, `>working</span>`, "this page")
	see("the queue", "/ui/queue?queue=orders", "stuck-&lt;b&gt;1", `data-testid="failure-row"`, "451 &lt;script&gt;", `data-testid="wait-row"`, "WARREN_QUEUE_ORDERS_CONCURRENCY=4", "<code><bdi>abcd</bdi></code>")
	see("what waits", "/ui/waiting?queue=orders&filter="+url.QueryEscape("attempts = 1"), "1 message that match", "bad-1", "Make dead letters of what matches")
	see("a message in flight", "/ui/message?id="+url.QueryEscape("stuck-<b>1"), `data-testid="found-flight"`, "1 daemon has answered")
	see("a message that waits", "/ui/message?id=bad-1", `data-testid="found-wait"`)
	see("a dead letter", "/ui/message?id=m-2", `data-testid="found-dead"`)
	see("no message", "/ui/message?id=gone", "Looked at 3 dead letters of 1 queue")

	// What is asked for is done.
	post := func(at string, form url.Values, want string) {
		t.Helper()
		w := who.ask(http.MethodPost, at, form)
		if w.Code != http.StatusSeeOther {
			t.Fatalf("POST %s: got %d: %s", at, w.Code, w.Body)
		}
		back, _, _ := strings.Cut(w.Header().Get("Location"), "#")
		if body := who.get(back); !strings.Contains(body, want) || !strings.Contains(body, `data-testid="notice"`) {
			t.Errorf("after %s: the page lacks %q:\n%s", at, want, body)
		}
	}
	see("the daemon's name", "/ui/", `name="daemon" value="`)
	_, daemon, _ := strings.Cut(body, `name="daemon" value="`)
	daemon, _, _ = strings.Cut(daemon, `"`)
	post("/ui/queue/cancel", url.Values{"queue": {"orders"}, "id": {"stuck-<b>1"}, "daemon": {daemon}, "why": {"hangs"}}, "is cancelled")
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead") == 4 && v.Unacked(t, "orders") == 0 }, "it is a dead letter")
	post("/ui/queue/cancel", url.Values{"queue": {"orders"}, "id": {"stuck-<b>1"}, "daemon": {daemon}}, "is not in flight any more")
	post("/ui/queue/pause", url.Values{"queue": {"orders"}, "why": {"moves"}, "for": {"1h"}}, "orders is paused")
	see("that it is paused", "/ui/queue?queue=orders", ">paused</span>", ": moves", ">Resume</button>")
	if _, leave := p.hub.look(false); p.hub.refresh(t.Context()) { // what daemons have said of it is from now
		wantText(t, who.get("/ui/"), ">paused</span>")
		leave()
	}
	post("/ui/queue/resume", url.Values{"queue": {"orders"}}, "orders is resumed")
	post("/ui/daemon/quiet", url.Values{"daemon": {daemon}, "why": {"deploy"}}, "takes no messages until it is told to work")
	see("that it is quiet", "/ui/", ">quiet</span>", ": deploy", ">Work</button>")
	post("/ui/daemon/work", url.Values{"daemon": {daemon}}, "takes messages again")
	j := who.begin(p, "/ui/waiting/drop", url.Values{"queue": {"orders"}, "id": {"bad-1"}})
	if view := j.view(admin); view.Done.Done != 1 || view.Outcome != "dropped 1 message of orders" {
		t.Errorf("dropped: got %+v", view)
	}
	j = who.begin(p, "/ui/waiting/release", url.Values{"queue": {"orders"}, "all": {"yes"}})
	if view := j.view(admin); view.Done.Done != 0 || view.Level != "warn" {
		t.Errorf("released what is not there: got %+v", view)
	}

	for at, forms := range map[string][]string{
		"/ui/queue/pause":  {"", "queue=orders&for=ever", "queue=orders&for=-1h", "queue=orders&for=9999h", "queue=orders&why=" + strings.Repeat("x", 301)},
		"/ui/queue/resume": {""}, "/ui/queue/cancel": {"queue=orders", "queue=orders&id=a", "queue=orders&daemon=a"}, "/ui/daemon/quiet": {""}, "/ui/daemon/work": {"daemon=" + strings.Repeat("x", 301)},
		"/ui/waiting/release": {"queue=orders"}, "/ui/waiting/drop": {"queue=orders&filter=reason+%3D+x"},
	} {
		for _, form := range forms {
			values, err := url.ParseQuery(form)
			if err != nil {
				t.Fatal(err)
			}
			if code := who.ask(http.MethodPost, at, values).Code; code != http.StatusBadRequest {
				t.Errorf("POST %s with %.40s: got %d, want 400", at, form, code)
			}
		}
	}
	if code := who.ask(http.MethodPost, "/ui/daemon/quiet", url.Values{"daemon": {"nobody/1"}}).Code; code != http.StatusBadGateway {
		t.Errorf("a daemon that is not there: got %d", code)
	}
	if !strings.Contains(log.String(), `act=pause outcome="allowed: orders is paused`) {
		t.Errorf("the log has\n%s", log.String())
	}
}

// A state that is kept is shown.
func TestFoundState(t *testing.T) {
	t.Parallel()
	p, _ := newPage(t, func(c *Config) {
		c.State = func(_ context.Context, id, _ string) (state.Message, bool, error) {
			if id != "known" {
				return state.Message{}, false, nil
			}
			return state.Message{Transition: consumer.Transition{Queue: "orders", State: consumer.Succeeded, Attempt: 2}}, true, nil
		}
	})
	who := signedIn(t, p, tokens.View)
	wantText(t, who.get("/ui/message?id=known"), `data-testid="found-state"`, ">succeeded</span>")
	if body := who.get("/ui/message?id=unknown"); strings.Contains(body, "found-state") || !strings.Contains(body, "Not there") {
		t.Errorf("got %s", body)
	}
}

// The fleet is watched once however many look, and not at all after the last one.
func TestTheFleetIsWatchedOnce(t *testing.T) {
	t.Parallel()
	var dials atomic.Int32
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	p, _ := newPage(t, func(c *Config) {
		c.Nodes = func() ([]string, error) {
			dials.Add(1)
			return []string{v.URL}, nil
		}
	})
	work(t, v)
	var leaves []func()
	for range 10 {
		picture, leave := p.hub.look(false)
		rabbittest.Eventually(t, rabbittest.Soon, func() bool { return len(picture.view.Answers(time.Now())) == 1 }, "the daemon is seen")
		leaves = append(leaves, leave)
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
	for _, leave := range leaves {
		leave()
		leave() // once counts
	}
	rabbittest.Eventually(t, 3*linger, func() bool {
		p.hub.mu.Lock()
		defer p.hub.mu.Unlock()
		return p.hub.stop == nil
	}, "nobody is watched")
	p.hub.done.Wait() // its connection is closed
}

// An alarm of the broker stands above everything else, whether it came before the page or after.
// It hits whoever publishes, so no other test runs meanwhile.
func TestAlarmOfTheBroker(t *testing.T) {
	v, p, _ := withBroker(t, 1)
	newcomer, _ := newPage(t, func(c *Config) { c.Nodes = p.cfg.Nodes })
	work(t, v)
	who, late := signedIn(t, p, tokens.View), signedIn(t, newcomer, tokens.View)
	const banner = "An alarm blocks the broker"
	shows := func(who *visitor, want bool, what string) {
		t.Helper()
		rabbittest.Eventually(t, time.Minute, func() bool {
			body := who.get("/ui/")
			return strings.Contains(body, banner) == want && strings.Contains(body, `>1</a>`)
		}, what)
	}
	shows(who, false, "there is no alarm, and one dead letter")
	if err := v.Node.MemoryAlarm(true); err != nil {
		t.Fatal(err)
	}
	shows(who, true, "the alarm is seen by who looked before")
	shows(late, true, "the alarm is seen by who looks first after")
	if err := v.Node.MemoryAlarm(false); err != nil {
		t.Fatal(err)
	}
	shows(who, false, "it has ended")
	shows(late, false, "it has ended for the other one, too")
}
