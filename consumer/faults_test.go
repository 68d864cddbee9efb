package consumer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestConsumesAgainAfterEachFault lets 20,000 messages flow, a tenth of which fail
// once, and breaks something in their middle: the queue must be consumed again
// within 5 s of the fault's end, and every message be done.
func TestConsumesAgainAfterEachFault(t *testing.T) {
	const messages = 20_000
	faults := map[string]func(t *testing.T, v *rabbittest.Vhost, p *rabbittest.Proxy){
		"node killed and restarted": func(t *testing.T, v *rabbittest.Vhost, _ *rabbittest.Proxy) {
			v.Node.Kill()
			if err := v.Node.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"connection cut": func(_ *testing.T, _ *rabbittest.Vhost, p *rabbittest.Proxy) { p.Cut() },
		"network away": func(t *testing.T, _ *rabbittest.Vhost, p *rabbittest.Proxy) {
			p.Refuse()
			<-time.After(time.Second)
			p.Restore(t)
		},
		"connection closed by the broker": func(t *testing.T, v *rabbittest.Vhost, _ *rabbittest.Proxy) {
			v.CloseConnections(t, "maintenance")
		},
		"node paused": func(_ *testing.T, v *rabbittest.Vhost, _ *rabbittest.Proxy) {
			v.Node.Pause()
			<-time.After(time.Second)
			v.Node.Resume()
		},
		"memory alarm": func(t *testing.T, v *rabbittest.Vhost, _ *rabbittest.Proxy) {
			if err := v.Node.MemoryAlarm(true); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
			if err := v.Node.MemoryAlarm(false); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			p := rabbittest.NewProxy(t, v.Node.Addr())
			done := newLedger()
			var total, failures atomic.Int64
			half := make(chan struct{})
			r := run(t, []string{v.URLAt(p.Addr)}, Queue{Name: "flow", Prefetch: 50, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
				if n, _ := strconv.Atoi(d.MessageID); n%10 == 0 && d.Attempt == 1 {
					failures.Add(1)
					return errors.New("fails once")
				}
				done.write(d)
				if total.Add(1) == messages/4 {
					close(half)
				}
				return nil
			})})
			v.PublishN(t, "flow", messages, func(i int) amqp.Publishing {
				return amqp.Publishing{MessageId: strconv.Itoa(i), DeliveryMode: amqp.Persistent}
			})
			<-half
			fault(t, v, p)
			ended, before := time.Now(), total.Load()
			rabbittest.Eventually(t, 20*time.Second, func() bool {
				n, _ := done.counts()
				return total.Load() > before || n == messages
			}, "messages flow again")
			again := time.Since(ended)
			rabbittest.Eventually(t, 60*time.Second, func() bool { n, _ := done.counts(); return n == messages }, "every message is done")
			empty(t, v, "flow", "flow.dead", "warren.wait.flow.1s")
			_, repeats := done.counts()
			t.Logf("flowing again %v after the fault's end; %d messages done, %d repeated, %d repeats acknowledged unrun, %d attempts failed as told",
				again.Round(time.Millisecond), messages, repeats, strings.Count(r.log.String(), "acknowledged without running again"), failures.Load())
			if again > rabbittest.Soon {
				t.Errorf("messages flowed again %v after the fault's end, want soon", again)
			}
		})
	}
}

// TestQueueDeletedUnderItsConsumer deletes a queue, which takes its messages with
// it, and expects it to be declared and consumed again.
func TestQueueDeletedUnderItsConsumer(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	done := newLedger()
	r := run(t, []string{v.URL}, Queue{Name: "gone", Processor: done.done()}, Queue{Name: "other", Processor: done.done()})
	worked := func(queue, id string) {
		t.Helper()
		v.Publish(t, queue, amqp.Publishing{MessageId: id})
		rabbittest.Eventually(t, 5*time.Second, func() bool { return len(done.of(id)) == 1 }, queue+" is worked")
	}
	const times = 12
	for i := range times {
		worked("gone", fmt.Sprint(i))
		before := strings.Count(r.log.String(), "msg=consuming queue=gone")
		// The loop renews its consumer after the first delivery: in this moment, or it has.
		v.DeleteQueue(t, "gone")
		v.DeleteQueue(t, "gone.dead")
		rabbittest.Eventually(t, time.Minute, func() bool { return strings.Count(r.log.String(), "msg=consuming queue=gone") > before }, "the queue is consumed again")
	}
	worked("gone", "after")
	worked("other", "beside it")
	// The other queue was not disturbed, unless by the broker: 4.3 may fail at a consumer that
	// is renewed in that moment, and end the connection.
	equal(t, strings.Count(r.log.String(), "msg=connected"), 1+strings.Count(r.log.String(), "INTERNAL_ERROR"))
}

// TestQueueDeletedUnnoticed has the broker say nothing of it, as RabbitMQ 4.3 does if the
// consumer is renewed in that moment.
func TestQueueDeletedUnnoticed(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	done := newLedger()
	r := run(t, []string{v.URLAt(p.Addr)}, Queue{Name: "gone", Processor: done.done()})
	var swallowed atomic.Int64
	p.Swallow(func(piece []byte) bool {
		cancels := bytes.Contains(piece, []byte("\x00\x3c\x00\x1e")) // basic.cancel
		if cancels {
			swallowed.Add(1)
		}
		return cancels
	})
	v.DeleteQueue(t, "gone")
	rabbittest.Eventually(t, time.Minute, func() bool { return contains(r.log, "the queue is consumed again") }, "the queue is consumed again")
	v.Publish(t, "gone", amqp.Publishing{MessageId: "after"})
	rabbittest.Eventually(t, 5*time.Second, func() bool { return len(done.of("after")) == 1 }, "it is worked")
	equal(t, swallowed.Load(), 1)
	equal(t, strings.Count(r.log.String(), "msg=connected"), 1)
}

// TestConsumerTimeoutOfTheBroker has the broker end a consumer because of a delivery
// that is worked on for longer than its consumer_timeout. The work is finished, not
// begun anew.
func TestConsumerTimeoutOfTheBroker(t *testing.T) {
	v := rabbittest.NewVhost(t)
	if _, err := v.Node.Eval(`application:set_env(rabbit, consumer_timeout, 1000), application:set_env(rabbit, channel_tick_interval, 200)`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := v.Node.Eval(`application:set_env(rabbit, consumer_timeout, 1800000), application:set_env(rabbit, channel_tick_interval, 60000)`); err != nil {
			t.Error(err)
		}
	})
	done := newLedger()
	release := make(chan struct{})
	r := run(t, []string{v.URL}, Queue{Name: "slow", Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		done.write(d)
		if d.MessageID == "slow" {
			<-release
		}
		return nil
	})})
	v.Publish(t, "slow", amqp.Publishing{MessageId: "slow"})
	rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Count(r.log.String(), "msg=consuming") >= 2 }, "the queue is consumed anew")
	rabbittest.Eventually(t, 5*time.Second, func() bool { return len(done.of("slow")) == 2 || v.Unacked(t, "slow") == 1 }, "the message is handed out again")
	close(release)
	v.Publish(t, "slow", amqp.Publishing{MessageId: "next"})
	rabbittest.Eventually(t, 5*time.Second, func() bool { return len(done.of("next")) == 1 }, "the next message is worked")
	// Up to 4.2 the broker closes the channel, from 4.3 on it cancels the consumer.
	if !contains(r.log, "PRECONDITION_FAILED - delivery acknowledgement on channel") && !contains(r.log, "consumer timeout") {
		t.Errorf("the log does not say why the queue was not consumed any more")
	}
	empty(t, v, "slow", "slow.dead")
}

// TestWorkDoneAfterItsConnectionIsNotRepeated cuts the connection under a delivery.
// What it comes to cannot be acknowledged; the repeat is, unrun.
func TestWorkDoneAfterItsConnectionIsNotRepeated(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	done := newLedger()
	started, release := make(chan struct{}, 2), make(chan struct{})
	r := run(t, []string{v.URLAt(p.Addr)}, Queue{Name: "mails", Concurrency: 1, Processor: ProcessorFunc(func(ctx context.Context, d Delivery, _ *Scope) error {
		started <- struct{}{}
		<-release
		done.write(d)
		return ctx.Err() // a lost connection is no reason to stop working
	})})
	v.Publish(t, "mails", amqp.Publishing{MessageId: "m"})
	<-started
	p.Cut()
	// Its slot, the only one, is taken: the queue is not consumed until it is free.
	rabbittest.Eventually(t, 10*time.Second, func() bool { return strings.Count(r.log.String(), "msg=connected") == 2 }, "connected again")
	close(release)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return contains(r.log, "acknowledged without running again") }, "the repeat is recognised")
	empty(t, v, "mails", "mails.dead")
	equal(t, len(done.of("m")), 1)
}

// TestOriginalIsNotAckedUnlessItsPublishIsConfirmed breaks what a failing message
// would go to: it must stay in its queue, however often it is worked.
func TestOriginalIsNotAckedUnlessItsPublishIsConfirmed(t *testing.T) {
	t.Parallel()
	failing := func(err error) Processor {
		return ProcessorFunc(func(context.Context, Delivery, *Scope) error { return err })
	}
	full := func(queue string) func(*testing.T, *rabbittest.Vhost) {
		return func(t *testing.T, v *rabbittest.Vhost) {
			v.PublishN(t, queue, 3, func(int) amqp.Publishing { return amqp.Publishing{} })
			v.SetPolicy(t, "full", "^"+strings.ReplaceAll(queue, ".", `\.`)+"$", `{"max-length":1}`, "queues")
		}
	}
	for name, c := range map[string]struct {
		processor Processor
		breaks    func(*testing.T, *rabbittest.Vhost)
		want      string // in the log
	}{
		"dead-letter queue deleted": {failing(Permanent(errors.New("no"))), func(t *testing.T, v *rabbittest.Vhost) {
			v.DeleteQueue(t, "orders.dead")
		}, "no queue takes it"},
		"wait queue full":        {failing(errors.New("no")), full("warren.wait.orders.64s"), "the broker refused it"},
		"dead-letter queue full": {failing(Permanent(errors.New("no"))), full("orders.dead"), "the broker refused it"},
	} {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			declareAll(t, v, "orders")
			r := runConfig(t, Config{Nodes: []string{v.URL}, Queues: []Queue{{Name: "orders", Passive: true, EnvPrefix: "WARREN_QUEUE_ORDERS_", RetryBase: 80 * time.Second, RetryMax: 80 * time.Second, Processor: c.processor}}},
				func(c *Consumer) { c.publishTimeout = 300 * time.Millisecond })
			c.breaks(t, v)
			v.Publish(t, "orders", amqp.Publishing{MessageId: "m"})
			rabbittest.Eventually(t, 10*time.Second, func() bool { return contains(r.log, "cannot publish, the outcome of attempts is kept") }, "the fault is logged")
			if !contains(r.log, c.want) {
				t.Errorf("the log lacks %q", c.want)
			}
			if _, err := r.end(); err != nil {
				t.Error(err)
			}
			rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "orders") == 1 }, "the message is back in its queue")
		})
	}
}

// declareAll declares what a Consumer of the queues would, for one that may not.
func declareAll(t *testing.T, v *rabbittest.Vhost, queues ...string) {
	t.Helper()
	for _, name := range queues {
		declareQueues(t, v, broker.Queue{Name: name, Type: Quorum, Passive: true, RetryMax: 64 * time.Second})
	}
}

// declareQueues declares all that the work queue can need.
func declareQueues(t *testing.T, v *rabbittest.Vhost, q broker.Queue) {
	t.Helper()
	conn := dial(t, v.URL)
	decls := q.Declarations()
	for _, d := range q.Waits() {
		decls = append(decls, q.DeclareWait(d))
	}
	if err := conn.Ensure(decls, false, ""); err != nil {
		t.Fatal(err)
	}
}

// dial opens a connection that ends with the test.
func dial(t testing.TB, url string) *broker.Conn {
	t.Helper()
	conn, err := broker.Dialer{}.Dial(t.Context(), url, broker.Options{Purpose: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// TestDeletedWaitQueueIsDeclaredAgain is the same fault where Warren may mend it.
func TestDeletedWaitQueueIsDeclaredAgain(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	done := newLedger()
	run(t, []string{v.URL}, Queue{Name: "orders", Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		done.write(d)
		if d.Attempt == 1 {
			return errors.New("no")
		}
		return nil
	})})
	for _, id := range []string{"first", "m"} { // the first declares it
		v.Publish(t, "orders", amqp.Publishing{MessageId: id})
		rabbittest.Eventually(t, 10*time.Second, func() bool { return len(done.of(id)) == 2 }, "the second attempt")
		empty(t, v, "orders", "orders.dead", "warren.wait.orders.1s")
		v.DeleteQueue(t, "warren.wait.orders.1s")
	}
}

// TestConfirmThatNeverComes stalls what the node sends: the message waits in its
// wait queue, but as long as Warren does not know, the original must not go.
func TestConfirmThatNeverComes(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	release := make(chan struct{})
	r := run(t, []string{v.URLAt(p.Addr) + "?heartbeat=2"}, Queue{Name: "orders", RetryBase: 20 * time.Second, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		switch {
		case d.Attempt > 1:
			return nil
		case d.MessageID == "m":
			<-release
		}
		return errors.New("no")
	})})
	// The first opens the channel that the second is published on.
	v.Publish(t, "orders", amqp.Publishing{MessageId: "first"})
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "warren.wait.orders.16s") == 1 }, "the first message waits")
	v.Publish(t, "orders", amqp.Publishing{MessageId: "m"})
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Unacked(t, "orders") == 1 }, "the message is worked")
	p.Stall(rabbittest.FromNode)
	close(release)
	// The first may have come home meanwhile.
	rabbittest.Eventually(t, 5*time.Second, func() bool {
		return v.Ready(t, "warren.wait.orders.16s")+v.Unacked(t, "orders")+v.Ready(t, "orders") == 3
	}, "the message waits, too, and is kept where it was")
	p.Cut()
	p.Restore(t)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Count(r.log.String(), "msg=consuming") >= 2 }, "the queue is consumed again")
	empty(t, v, "orders", "orders.dead", "warren.wait.orders.16s")
}

// TestFaultyStart holds what keeps Warren from starting to one clear line each.
func TestFaultyStart(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	ch := v.Channel(t)
	for queue, args := range map[string]amqp.Table{
		"classic":  {"x-queue-type": "classic", "x-overflow": "reject-publish", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "classic.dead"},
		"unlimted": {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "unlimted.dead", "x-dead-letter-strategy": "at-least-once", "x-delivery-limit": 7},
	} {
		if _, err := ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
			t.Fatal(err)
		}
	}
	reader := v.AddUser(t, "reader-"+strings.ToLower(v.Name), "pw", "^$", "^$", ".*")
	wrong := strings.Replace(v.URL, "guest:guest", "guest:wr0ng-secret", 1)
	for name, c := range map[string]struct {
		url   string
		queue Queue
		want  []string
	}{
		"wrong password": {wrong, Queue{Name: "q"}, []string{"node " + v.Node.Addr(), "refused the user name or password"}},
		"missing vhost":  {v.Node.URL("no-such-vhost"), Queue{Name: "q"}, []string{"vhost no-such-vhost not found", "rabbitmqctl add_vhost"}},
		"no permission":  {reader, Queue{Name: "q", EnvPrefix: "WARREN_QUEUE_Q_"}, []string{"queue q: not permitted", "WARREN_QUEUE_Q_DECLARE=false"}},
		"another type": {v.URL, Queue{Name: "classic", EnvPrefix: "WARREN_QUEUE_CLASSIC_"},
			[]string{"queue classic exists with another x-queue-type: Warren wants 'quorum', it has 'classic'", "set WARREN_QUEUE_CLASSIC_TYPE"}},
		"another argument": {v.URL, Queue{Name: "unlimted", EnvPrefix: "WARREN_QUEUE_UNLIMTED_"},
			[]string{"exists with another x-delivery-limit", "'20'", "'7'", "WARREN_QUEUE_UNLIMTED_DECLARE=false", `rabbitmqctl set_policy unlimted '^unlimted$' '{"dead-letter-exchange":"","dead-letter-routing-key":"unlimted.dead"`}},
		"missing exchange": {v.URL, Queue{Name: "bound", Exchange: "shop", RoutingKeys: []string{"a"}, EnvPrefix: "WARREN_QUEUE_BOUND_"},
			[]string{"exchange shop (WARREN_QUEUE_BOUND_EXCHANGE)", "is missing", "declare the exchange first"}},
		"passive and missing": {rabbittest.NewVhost(t).URL, Queue{Name: "absent", Passive: true, EnvPrefix: "WARREN_QUEUE_ABSENT_"},
			[]string{"queue absent is missing", "queue absent.dead is missing", "WARREN_QUEUE_ABSENT_DECLARE=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.queue.Processor = noop
			consumer, err := New(Config{Nodes: []string{c.url}, Queues: []Queue{c.queue}}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			err = consumer.Run(t.Context())
			for _, want := range c.want {
				if !strings.Contains(errorText(err), want) {
					t.Errorf("the error is\n%v\nwant %q in it", err, want)
				}
			}
			if strings.Contains(errorText(err), "wr0ng-secret") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestCertificateThatDoesNotVerify(t *testing.T) {
	t.Parallel()
	node, err := rabbittest.Start(t.Context(), rabbittest.Options{Dir: t.TempDir(), TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Stop(); err != nil {
			t.Error(err)
		}
	})
	cfg := Config{Nodes: []string{node.TLSURL("/")}, Queues: []Queue{{Name: "q", Processor: noop}}}
	c, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	err = c.Run(t.Context())
	if !strings.Contains(errorText(err), "the node's TLS certificate does not verify: x509: certificate signed by unknown authority") || !strings.Contains(errorText(err), "cacertfile") {
		t.Errorf("the error is %v", err)
	}
	trusted := node.TLSURL("/") + "?cacertfile=" + node.CAFile()
	another := strings.Replace(trusted, "127.0.0.1", "0.0.0.0", 1) // the same machine
	if text := startFault(t, another, cfg.Queues[0]); !strings.Contains(text, "check the host name in WARREN_AMQP_URL") {
		t.Errorf("the error is %s", text)
	}
	cfg.Nodes = []string{trusted}
	runConfig(t, cfg, nil)
}

// TestOneNodeOfThreeIsEnough gives nodes of which two are down for different
// reasons: each is named once, and the third is used.
func TestOneNodeOfThreeIsEnough(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	down := rabbittest.NewProxy(t, v.Node.Addr())
	down.Refuse()
	wrong := strings.Replace(v.URL, "guest:guest", "guest:wrong", 1)
	done := newLedger()
	r := run(t, []string{v.URLAt(down.Addr), wrong, v.URL}, Queue{Name: "q", Processor: done.done()})
	v.Publish(t, "q", amqp.Publishing{MessageId: "m"})
	rabbittest.Eventually(t, 5*time.Second, func() bool { return len(done.of("m")) == 1 }, "the message is done")
	equal(t, strings.Count(r.log.String(), `msg="cannot use the node"`), 2)
	for _, want := range []string{"node=" + down.Addr + " error=\"dial tcp " + down.Addr + ": connect: connection refused\"", "refused the user name or password"} {
		if !contains(r.log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

// TestStartsWhenTheBrokerDoes starts Warren before its broker.
func TestStartsWhenTheBrokerDoes(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	p.Refuse()
	log := &logBuffer{}
	c, err := New(Config{Nodes: []string{v.URLAt(p.Addr)}, Queues: []Queue{{Name: "q", Processor: noop}}}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	rabbittest.Eventually(t, 5*time.Second, func() bool { return contains(log, "cannot use the node") }, "the fault is logged")
	<-time.After(1500 * time.Millisecond) // several tries
	p.Restore(t)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return contains(log, "msg=consuming") }, "the queue is consumed")
	equal(t, strings.Count(log.String(), "cannot use the node"), 1)
	equal(t, strings.Count(log.String(), "the node can be used again"), 1)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSuspectsAreWorkedAlone has messages in the queue that were redelivered many times:
// each is taken alone, so that whatever it does to the process counts against no other.
func TestSuspectsAreWorkedAlone(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	_, _ = run(t, []string{v.URL}, Queue{Name: "orders", Processor: noop}).end()
	v.PublishN(t, "orders", 3, numbered)
	age(t, v, "orders", broker.SuspectAfter+3, func(amqp.Delivery) bool { return true })
	v.PublishN(t, "orders", 27, numbered)

	h := newHeld()
	c, err := New(Config{Nodes: []string{v.URL}, Queues: []Queue{{Name: "orders", Processor: h}}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	for i := range 3 {
		equal(t, <-h.started, strconv.Itoa(i))
		rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Unacked(t, "orders") == 1 }, "the suspect is alone")
		h.release <- struct{}{}
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Unacked(t, "orders") > 8 }, "the others are worked together")
	close(h.release)
	empty(t, v, "orders", "orders.dead")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestDocumentedPermissionsAreEnough works a queue, down to its wait and dead-letter
// queues, as a user with no more than docs/queues.md asks for.
func TestDocumentedPermissionsAreEnough(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	ch := v.Channel(t)
	if err := ch.ExchangeDeclare("shop", "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	url := v.AddUser(t, "warren-"+strings.ToLower(v.Name), "pw",
		`^(orders|orders\.dead|warren\.wait\.orders\..*)$`, `^(amq\.default|orders)$`, `^(orders|warren\.wait\.orders\..*|shop)$`)
	orders := Queue{Name: "orders", MaxAttempts: 2, Exchange: "shop", RoutingKeys: []string{"order.*"}, EnvPrefix: "WARREN_QUEUE_ORDERS_",
		Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return errors.New("no") })}
	run(t, []string{url}, orders)
	if err := ch.PublishWithContext(t.Context(), "shop", "order.created", true, false, amqp.Publishing{MessageId: "m"}); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "orders.dead") == 1 }, "the message is dead-lettered")
	dead := v.Drain(t, "orders.dead")[0]
	equal(t, []any{dead.Headers["x-warren-exchange"], dead.Headers["x-warren-routing-key"]}, []any{"shop", "order.created"})
	if lines := findings(t, []string{url}, orders); strings.Contains(lines, "FAIL") {
		t.Errorf("findings:\n%s", lines)
	}
}

// TestManyQuickSuspects has the acknowledgements of suspects gathered, and none of them
// forgotten over it.
func TestManyQuickSuspects(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	_, _ = run(t, []string{v.URL}, Queue{Name: "orders", Processor: noop}).end()
	v.PublishN(t, "orders", 200, numbered)
	age(t, v, "orders", broker.SuspectAfter, func(amqp.Delivery) bool { return true })
	done := newLedger()
	run(t, []string{v.URL}, Queue{Name: "orders", Prefetch: 100, Processor: done.done()})
	empty(t, v, "orders", "orders.dead")
	n, _ := done.counts()
	equal(t, n, 200)
}
