package operator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

func quiet(Done) {}

// once checks that each of n messages is in exactly one of these lists.
func once(t *testing.T, n int, lists ...[]amqp.Delivery) {
	t.Helper()
	seen := make(map[string]int)
	for _, list := range lists {
		for _, d := range list {
			seen[d.MessageId]++
		}
	}
	for i := range n {
		if id := fmt.Sprintf("m-%d", i); seen[id] != 1 {
			t.Errorf("%s is there %d times, want once", id, seen[id])
		}
	}
	if len(seen) != n {
		t.Errorf("%d messages are there, want %d", len(seen), n)
	}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 50)
	v.Publish(t, "orders.dead", amqp.Publishing{MessageId: "again", Priority: 3, Expiration: "3600000", Headers: amqp.Table{
		"x-warren-reason": "exhausted", "x-warren-replayed": int64(2), "x-warren-copy": "a-name", "x-warren-reply-to": "answers", "CC": []any{"elsewhere"}, "x-delay": int64(5),
	}})
	v.Declare(t, "billing", amqp.Table{"x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "orders.dead"})
	ch := v.Channel(t)
	if err := ch.ExchangeDeclare("shop", "fanout", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("billing", "", "shop", false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Publish("shop", "order.made", false, false, amqp.Publishing{MessageId: "rejected", UserId: "guest", DeliveryMode: amqp.Persistent}); err != nil {
		t.Fatal(err)
	}
	other := v.AddUser(t, "shop", "password", "", ".*", "")
	conn, err := amqp.Dial(other)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	theirs, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.Publish("shop", "order.made", false, false, amqp.Publishing{MessageId: "forged", UserId: "shop", DeliveryMode: amqp.Persistent, Headers: amqp.Table{
		"x-warren-attempt": int64(19), "x-warren-reply-to": "payments", "x-warren-original-user-id": "root", "mine": "kept",
	}}); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "billing") == 2 }, "both are there")
	for range 2 {
		d, _, err := ch.Get("billing", false)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Reject(false); err != nil {
			t.Fatal(err)
		}
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead") == 53 }, "all are dead")

	var last Done
	done, err := brokerOf(v).Replay(t.Context(), "orders", filtered(t, "reason != permanent"), ReplayOptions{}, func(d Done) { last = d })
	if err != nil || done.All != 53 || done.Looked != 53 || done.Matched != 36 || done.Done != 36 || done.Left != 0 || !reflect.DeepEqual(last, done) {
		t.Errorf("got %+v, told %+v, error %v; want 36 of 53", done, last, err)
	}
	if n := v.Ready(t, "orders.dead"); n != 17 {
		t.Errorf("%d are dead still, want 17", n)
	}
	got := make(map[string]amqp.Delivery)
	for _, d := range append(v.Drain(t, "orders"), v.Drain(t, "billing")...) {
		got[d.MessageId] = d
	}
	one := got["m-1"]
	want := letter("orders", 1)
	for _, gone := range []string{"x-warren-reason", "x-warren-error", "x-warren-attempt", "x-warren-failed-at"} {
		delete(want.Headers, gone)
	}
	want.Headers["x-warren-replayed"] = int64(1)
	if fmt.Sprint(one.Headers) != fmt.Sprint(want.Headers) || string(one.Body) != string(want.Body) || one.UserId != "guest" || one.DeliveryMode != amqp.Persistent ||
		one.CorrelationId != "c" || one.ReplyTo != "answers" || one.Type != "order" || one.AppId != "shop" || !one.Timestamp.Equal(want.Timestamp) {
		t.Errorf("m-1: got %+v, want %+v", one, want)
	}
	again := got["again"]
	if again.Priority != 3 || again.Expiration != "" || again.RoutingKey != "orders" || fmt.Sprint(again.Headers) !=
		"map[x-delay:5 x-warren-original-CC:[elsewhere] x-warren-original-expiration:3600000 x-warren-replayed:3 x-warren-reply-to:answers]" {
		t.Errorf("again: got %+v", again)
	}
	for id, headers := range map[string]string{
		"rejected": "map[x-warren-exchange:shop x-warren-replayed:1 x-warren-routing-key:order.made]",
		"forged":   "map[mine:kept x-warren-exchange:shop x-warren-original-user-id:shop x-warren-replayed:1 x-warren-routing-key:order.made]",
	} {
		if d := got[id]; d.RoutingKey != "billing" || fmt.Sprint(d.Headers) != headers {
			t.Errorf("%s: got %s in queue %s, want %s in billing", id, fmt.Sprint(d.Headers), d.RoutingKey, headers)
		}
	}
	if got["rejected"].UserId != "guest" {
		t.Errorf("rejected: the user-id is %q", got["rejected"].UserId)
	}
}

func TestReplayToAnotherQueueWithAnotherBody(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	declare(t, v, "tests")
	bury(t, v, "orders", 3)
	done, err := brokerOf(v).Replay(t.Context(), "orders", Selection{IDs: []string{"m-1"}}, ReplayOptions{
		To: "tests", Body: func(l *Letter) ([]byte, error) { return append(l.Body(), "!"...), nil },
	}, quiet)
	if err != nil || done.Done != 1 || v.Ready(t, "orders.dead") != 2 {
		t.Errorf("got %+v and error %v, %d dead", done, err, v.Ready(t, "orders.dead"))
	}
	if got := v.Drain(t, "tests")[0]; string(got.Body) != `{"n":1}!` || got.Headers["x-warren-edited"] != digest([]byte(`{"n":1}`)) {
		t.Errorf("got %q with %v", got.Body, got.Headers)
	}
	boom := errors.New("boom")
	done, err = brokerOf(v).Replay(t.Context(), "orders", Selection{}, ReplayOptions{Body: func(*Letter) ([]byte, error) { return nil, boom }}, quiet)
	if err != nil || done.Left != 2 || !errors.Is(done.Why, boom) || v.Ready(t, "orders.dead") != 2 {
		t.Errorf("of what cannot be published: got %+v and error %v", done, err)
	}
}

// What the queue does not take stays dead.
func TestReplayThatIsRefused(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 500)
	done, err := brokerOf(v).Replay(t.Context(), "orders", Selection{}, ReplayOptions{To: "nobody"}, quiet)
	if err == nil || !strings.Contains(err.Error(), "there is no queue nobody") || done.Done != 0 || v.Ready(t, "orders.dead") != 500 {
		t.Errorf("to a queue that there is not: got %+v, %v, %d dead", done, err, v.Ready(t, "orders.dead"))
	}
	v.Declare(t, "full", amqp.Table{"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": int64(100)})
	done, err = brokerOf(v).Replay(t.Context(), "orders", Selection{}, ReplayOptions{To: "full"}, quiet)
	if err == nil || !strings.Contains(err.Error(), "queue full does not take it: it is full") || done.Done < 100 || done.Done == 500 {
		t.Errorf("to a queue that is full: got %+v, %v", done, err)
	}
	once(t, 500, v.Drain(t, "full"), v.Drain(t, "orders.dead"))
}

func TestReplayAtARate(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 21)
	begin := time.Now()
	done, err := brokerOf(v).Replay(t.Context(), "orders", Selection{}, ReplayOptions{Rate: 20}, quiet)
	if took := time.Since(begin); err != nil || done.Done != 21 || took < time.Second {
		t.Errorf("got %+v and error %v after %v, want 21 after a second at least", done, err, took)
	}
}

// What is interrupted is finished: nothing is lost, and nothing there twice.
func TestReplayThatIsInterrupted(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 2000)
	ctx, cancel := context.WithCancel(t.Context())
	done, err := brokerOf(v).Replay(ctx, "orders", Selection{}, ReplayOptions{}, func(d Done) {
		if d.Done == 700 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || done.Done < 700 || done.Done == 2000 || v.Ready(t, "orders.dead") != 2000-done.Done {
		t.Errorf("got %+v and error %v, %d dead", done, err, v.Ready(t, "orders.dead"))
	}
	once(t, 2000, v.Drain(t, "orders"), v.Drain(t, "orders.dead"))
}

// What is finished when that comes is not interrupted, though the rest is not left in its order.
func TestAFinishedActIsNotInterrupted(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 100)
	b := brokerOf(v)
	for name, act := range map[string]func(context.Context, Selection, func(Done)) (Done, error){
		"replay": func(ctx context.Context, which Selection, progress func(Done)) (Done, error) {
			return b.Replay(ctx, "orders", which, ReplayOptions{}, progress)
		},
		"discard": func(ctx context.Context, which Selection, progress func(Done)) (Done, error) {
			return b.Discard(ctx, "orders", which, nil, progress)
		},
	} {
		if _, _, err := b.Groups(t.Context(), "orders", Selection{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done, err := act(ctx, Selection{Most: 1}, func(Done) { cancel() })
		if err != nil || done.Done != 1 {
			t.Errorf("%s: got %+v and error %v", name, done, err)
		}
	}
	if n := v.Ready(t, "orders.dead"); n != 98 {
		t.Errorf("%d are dead, want 98", n)
	}
}

// Nor when that comes while a confirm is waited for, as Ctrl-C does and a job that is cancelled.
func TestReplayThatIsInterruptedAtAnyTime(t *testing.T) {
	t.Parallel()
	const n = 600
	for round := range 12 {
		v := rabbittest.NewVhost(t)
		declare(t, v, "orders")
		bury(t, v, "orders", n)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o, begun := ReplayOptions{}, false
		if round%2 > 0 {
			o.Rate = 3000
		}
		done, err := brokerOf(v).Replay(ctx, "orders", Selection{}, o, func(d Done) {
			if d.Done == 100+20*round && !begun {
				begun = true
				go cancel()
			}
		})
		if err != nil && !errors.Is(err, context.Canceled) || v.Ready(t, "orders.dead") != n-done.Done {
			t.Errorf("round %d: got %+v and error %v, %d dead", round, done, err, v.Ready(t, "orders.dead"))
		}
		once(t, n, v.Drain(t, "orders"), v.Drain(t, "orders.dead"))
	}
}

// The broker restarts again and again: nothing is lost, and what is there twice was under way.
func TestReplayWhileTheBrokerRestarts(t *testing.T) {
	t.Parallel()
	n, most := 1500, 1
	if os.Getenv("WARREN_TEST_LONG") != "" {
		n, most = 10_000, 8
	}
	node, err := rabbittest.Start(t.Context(), rabbittest.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Kill)
	b := Broker{Nodes: []string{node.URL("/")}}
	v := &rabbittest.Vhost{Node: node, Name: "/", URL: node.URL("/")}
	declare(t, v, "orders")
	bury(t, v, "orders", n)
	total := 0
	for restarts := 0; ; restarts++ {
		rabbittest.Eventually(t, time.Minute, func() bool { return v.Unacked(t, "orders.dead") == 0 }, "what the replay before had hold of is back")
		restarted := make(chan error, 1)
		asked := false
		done, err := b.Replay(t.Context(), "orders", Selection{}, ReplayOptions{}, func(d Done) {
			if restarts < most && d.Done >= 400 && !asked {
				asked = true
				go func() { restarted <- node.Restart(t.Context()) }()
			}
		})
		if total += done.Done; asked {
			if err := <-restarted; err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err == nil {
			break
		}
		t.Logf("after %d restarts and %d messages: %v", restarts, total, err)
		if restarts > 100 {
			t.Fatal("it does not come to its end")
		}
		<-time.After(200 * time.Millisecond)
	}
	seen := make(map[string]int)
	for _, d := range v.Drain(t, "orders") {
		seen[d.MessageId]++
	}
	repeats := 0
	for _, times := range seen {
		repeats += times - 1
	}
	if len(seen) != n || v.Ready(t, "orders.dead") != 0 || repeats > n/10 {
		t.Errorf("got %d messages, %d of them again, and %d dead; want %d, few, and none", len(seen), repeats, v.Ready(t, "orders.dead"), n)
	}
	t.Logf("%d repeats", repeats)
}

// What is reported as taken away is gone, however many were taken away at once: up to 32 are
// under way between the broker's channel and its queue, and it forgets others when the
// channel is closed.
func TestWhatWasTakenAwayIsGone(t *testing.T) {
	t.Parallel()
	const n = 1000
	for _, test := range []struct {
		name string
		act  func(Broker) (Done, error)
		left int
	}{
		{"all discarded", func(b Broker) (Done, error) { return b.Discard(t.Context(), "orders", Selection{}, nil, quiet) }, 0},
		{"half of them discarded", func(b Broker) (Done, error) {
			return b.Discard(t.Context(), "orders", filtered(t, "id ~ \"[02468]$\""), nil, quiet)
		}, n / 2},
		{"the first ones discarded", func(b Broker) (Done, error) {
			return b.Discard(t.Context(), "orders", Selection{Most: 500}, nil, quiet)
		}, n / 2},
		{"all replayed", func(b Broker) (Done, error) {
			return b.Replay(t.Context(), "orders", Selection{}, ReplayOptions{}, quiet)
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			declare(t, v, "orders")
			bury(t, v, "orders", n)
			done, err := test.act(brokerOf(v))
			if err != nil || done.Done != n-test.left {
				t.Fatalf("got %+v and error %v, want %d done", done, err, n-test.left)
			}
			// What the channel forgot is back in the queue as soon as that has heard of its end.
			rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Unacked(t, "orders.dead") == 0 }, "nobody holds any")
			if got := v.Ready(t, "orders.dead"); got != test.left {
				t.Errorf("%d are dead, want %d", got, test.left)
			}
		})
	}
}

// lookAtABusyQueue begins to look at n messages, which the queue does not hand out before its
// leader, which is suspended, is resumed.
func lookAtABusyQueue(t *testing.T, n int) (looked <-chan error, got *[]amqp.Delivery, resume func()) {
	t.Helper()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "orders.dead", amqp.Table{"x-single-active-consumer": true})
	bury(t, v, "orders", n+1)
	before := v.Channel(t) // which is the one that is handed messages
	if err := before.Qos(1, 0, false); err != nil {
		t.Fatal(err)
	}
	if _, err := before.Consume("orders.dead", "before", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Unacked(t, "orders.dead") == 1 }, "another is handed one")
	s, err := brokerOf(v).sweep(t.Context(), "orders.dead")
	if err != nil {
		t.Fatal(err)
	}
	got, ended := new([]amqp.Delivery), make(chan error, 1)
	go func() {
		var err error
		*got, err = s.Next(t.Context())
		ended <- s.end(err)
	}()
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { // the queue counts the active one alone
		consumers, err := v.Node.Eval(fmt.Sprintf("length(rabbit_amqqueue:consumers_all(<<%q>>))", v.Name))
		return err == nil && consumers == "2"
	}, "both consume")
	again := v.SuspendLeader(t, "orders.dead")
	return ended, got, func() {
		again()
		if err := before.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A queue that is too busy to say how many messages it has does not count as empty: the broker
// says 0 for it after a moment, and that nobody consumes it.
func TestABusyQueueIsNotEmpty(t *testing.T) {
	t.Parallel()
	const n = 9
	looked, got, resume := lookAtABusyQueue(t, n)
	select {
	case err := <-looked:
		t.Fatalf("got %d messages and error %v of a queue that does not answer", len(*got), err)
	case <-time.After(3 * time.Second):
	}
	resume()
	if err := <-looked; len(*got) != n || err != nil {
		t.Errorf("got %d messages and error %v, want the %d that were left", len(*got), err, n)
	}
}

// Nor does one that does not answer to begin with.
func TestALookBeginsAtABusyQueue(t *testing.T) {
	t.Parallel()
	const n = 3
	v := rabbittest.NewVhost(t)
	v.Declare(t, "orders.dead", nil)
	bury(t, v, "orders", n)
	resume := v.SuspendLeader(t, "orders.dead")
	type look struct {
		*sweep
		error
	}
	begun := make(chan look, 1)
	go func() {
		s, err := brokerOf(v).sweep(t.Context(), "orders.dead")
		begun <- look{s, err}
	}()
	select {
	case l := <-begun:
		if l.error == nil {
			t.Errorf("a queue that does not answer has %d messages", l.Total)
		}
		t.Log(l.error)
		resume()
	case <-time.After(3 * time.Second):
		resume()
		l := <-begun
		if l.error != nil {
			t.Fatal(l.error)
		}
		if l.Total != n {
			t.Errorf("%d messages, want %d", l.Total, n)
		}
		if err := l.end(nil); err != nil {
			t.Error(err)
		}
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead") == n }, "all are there afterwards")
}

// One that goes on not to answer ends the act, with the reason.
func TestAQueueThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	looked, got, resume := lookAtABusyQueue(t, 9)
	defer resume()
	if err := <-looked; len(*got) != 0 || err == nil || !strings.Contains(err.Error(), "queue orders.dead has not answered for 30s: it has no leader") {
		t.Errorf("got %d messages and error %v, want why it ended", len(*got), err)
	}
}
