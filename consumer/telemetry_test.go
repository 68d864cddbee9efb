package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/meters"
	"github.com/warrenmq/warren/consumer/internal/pulse"
	"github.com/warrenmq/warren/consumer/internal/starved"
	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/internal/rabbittest"
)

const publishersTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// runTraced runs a Consumer whose spans end up in the recorder.
func runTraced(t *testing.T, v *rabbittest.Vhost, link bool, queues ...Queue) (*running, *tracetest.SpanRecorder) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	return runConfig(t, Config{Nodes: []string{v.URL}, Queues: queues, Telemetry: Telemetry{TracerProvider: provider, Link: link}}, nil), recorder
}

func ended(recorder *tracetest.SpanRecorder) string {
	var names []string
	for _, s := range recorder.Ended() {
		names = append(names, s.Name())
	}
	return strings.Join(names, ", ")
}

func attr(s sdktrace.ReadOnlySpan, key attribute.Key) string {
	for _, kv := range s.Attributes() {
		if kv.Key == key {
			return kv.Value.String()
		}
	}
	return ""
}

// TestATraceFollowsItsMessage fails a message twice and then for good: its attempts,
// waits and dead letter are one trace, each span hanging on the one before it.
func TestATraceFollowsItsMessage(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	var seen []string
	r, recorder := runTraced(t, v, false, Queue{Name: "orders", MaxAttempts: 2, Processor: ProcessorFunc(func(ctx context.Context, d Delivery, s *Scope) error {
		seen = append(seen, s.Span().SpanContext().SpanID().String())
		s.Logger().Info("working")
		return errors.New("no luck")
	})})
	v.Publish(t, "orders", amqp.Publishing{MessageId: "m-1", CorrelationId: "c-1", Headers: amqp.Table{"traceparent": publishersTrace}})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "orders.dead") == 1 && len(recorder.Ended()) == 4 }, "the message is dead-lettered")

	equal(t, ended(recorder), "process orders, send warren.wait.orders.1s, process orders, send orders.dead")
	parent := "b7ad6b7169203331"
	for i, s := range recorder.Ended() {
		equal(t, s.SpanContext().TraceID().String(), "0af7651916cd43dd8448eb211c80319c")
		if got := s.Parent().SpanID().String(); got != parent {
			t.Errorf("span %d (%s) hangs on %s, want %s", i, s.Name(), got, parent)
		}
		parent = s.SpanContext().SpanID().String()
		equal(t, attr(s, "messaging.system"), "rabbitmq")
		equal(t, attr(s, "messaging.message.id"), "m-1")
		equal(t, attr(s, "messaging.message.conversation_id"), "c-1")
		equal(t, attr(s, "server.address"), "127.0.0.1")
	}
	spans := recorder.Ended()
	for i, want := range []struct{ attempt, verdict string }{{"1", "retry"}, {"2", "dead"}} {
		s := spans[2*i]
		equal(t, s.SpanKind(), trace.SpanKindConsumer)
		equal(t, []string{attr(s, "warren.attempt"), attr(s, "warren.verdict"), attr(s, "messaging.operation.type"), attr(s, "error.type")}, []string{want.attempt, want.verdict, "process", "error"})
		equal(t, s.Status().Code, codes.Error)
		equal(t, s.Events()[0].Name, "exception")
		equal(t, seen[i], s.SpanContext().SpanID().String())
	}
	equal(t, spans[1].SpanKind(), trace.SpanKindProducer)
	if due, err := time.Parse(time.RFC3339, attr(spans[1], "warren.not_before")); err != nil || time.Since(due).Abs() > 10*time.Minute {
		t.Errorf("warren.not_before is %q", attr(spans[1], "warren.not_before"))
	}
	equal(t, attr(spans[3], "warren.reason"), "exhausted")

	// What the dead letter carries leads on from here, for whoever replays it.
	equal(t, v.Drain(t, "orders.dead")[0].Headers["traceparent"], any("00-0af7651916cd43dd8448eb211c80319c-"+parent+"-01"))
	for i := range 2 {
		want := fmt.Sprintf("msg=working queue=orders trace_id=0af7651916cd43dd8448eb211c80319c span_id=%s message_id=m-1 attempt=%d", seen[i], i+1)
		if !contains(r.log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

// TestAReplayGoesOnWithItsTrace finds the attempt that follows a replay from that which died,
// and back: it hangs on the dead letter's span, also where first attempts begin a trace.
func TestAReplayGoesOnWithItsTrace(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	_, recorder := runTraced(t, v, true, Queue{Name: "orders", Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		if d.Headers["x-warren-replayed"] == nil {
			return Permanent(errors.New("no"))
		}
		return nil
	})})
	v.Publish(t, "orders", amqp.Publishing{MessageId: "m-1", Headers: amqp.Table{"traceparent": publishersTrace}})
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead") == 1 }, "the message is dead-lettered")
	done, err := operator.Broker{Nodes: []string{v.URL}}.Replay(t.Context(), "orders", operator.Selection{}, operator.ReplayOptions{}, func(operator.Done) {})
	if err != nil || done.Done != 1 {
		t.Fatalf("replayed %d, error %v", done.Done, err)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return len(recorder.Ended()) == 3 }, "it is worked again")
	equal(t, ended(recorder), "process orders, send orders.dead, process orders")
	died, dead, again := recorder.Ended()[0], recorder.Ended()[1], recorder.Ended()[2]
	equal(t, again.Parent().SpanID(), dead.SpanContext().SpanID())
	equal(t, again.SpanContext().TraceID(), died.SpanContext().TraceID())
	equal(t, []string{attr(died, "warren.replayed"), attr(again, "warren.replayed"), attr(again, "warren.attempt")}, []string{"", "1", "1"})
}

func TestATraceBeginsWithAMessageThatHasNone(t *testing.T) {
	v := rabbittest.NewVhost(t)
	_, recorder := runTraced(t, v, false, Queue{Name: "orders", Processor: noop})
	v.Publish(t, "orders", amqp.Publishing{}, amqp.Publishing{Headers: amqp.Table{"traceparent": "nonsense"}})
	rabbittest.Eventually(t, 5*time.Second, func() bool { return len(recorder.Ended()) == 2 }, "two spans")
	a, b := recorder.Ended()[0], recorder.Ended()[1]
	if a.Parent().IsValid() || b.Parent().IsValid() || a.SpanContext().TraceID() == b.SpanContext().TraceID() {
		t.Errorf("traces %v and %v, parents %v and %v", a.SpanContext().TraceID(), b.SpanContext().TraceID(), a.Parent(), b.Parent())
	}
}

// TestALinkedTrace begins a trace at Warren, linked to the publisher's, that the next
// attempt continues.
func TestALinkedTrace(t *testing.T) {
	v := rabbittest.NewVhost(t)
	_, recorder := runTraced(t, v, true, Queue{Name: "orders", Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		if d.Attempt == 1 {
			return errors.New("no")
		}
		return nil
	})})
	v.Publish(t, "orders", amqp.Publishing{Headers: amqp.Table{"traceparent": publishersTrace}})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return len(recorder.Ended()) == 3 }, "three spans")
	first, wait, second := recorder.Ended()[0], recorder.Ended()[1], recorder.Ended()[2]
	if first.Parent().IsValid() || len(first.Links()) != 1 || first.Links()[0].SpanContext.SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("the first attempt hangs on %v and is linked to %v", first.Parent(), first.Links())
	}
	equal(t, second.Parent().SpanID(), wait.SpanContext().SpanID())
	equal(t, second.SpanContext().TraceID(), first.SpanContext().TraceID())
	equal(t, len(second.Links()), 0)
}

func TestRepliesAndDelaysAreTraced(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	_, recorder := runTraced(t, v, false, Queue{Name: "sums", Processor: noop})
	v.Declare(t, "answers", nil)
	v.Publish(t, "sums", amqp.Publishing{ReplyTo: "answers", Headers: amqp.Table{"traceparent": publishersTrace, "x-delay": int32(1000)}})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "answers") == 1 && len(recorder.Ended()) == 3 }, "the answer is there")
	equal(t, ended(recorder), "send warren.wait.sums.1s, process sums, send answers")
	spans := recorder.Ended()
	equal(t, spans[0].Parent().SpanID().String(), "b7ad6b7169203331")
	equal(t, spans[1].Parent().SpanID(), spans[0].SpanContext().SpanID())
	equal(t, spans[2].Parent().SpanID(), spans[1].SpanContext().SpanID())
	equal(t, attr(spans[2], "warren.purpose"), "reply")
	equal(t, v.Drain(t, "answers")[0].Headers["traceparent"], any("00-0af7651916cd43dd8448eb211c80319c-"+spans[2].SpanContext().SpanID().String()+"-01"))
}

func TestDestinationName(t *testing.T) {
	for _, c := range []struct{ exchange, key, queue, want string }{
		{"", "orders", "orders", "orders"},
		{"shop", "order.created", "orders", "shop:order.created:orders"},
		{"shop", "orders", "orders", "shop:orders"},
		{"shop", "", "orders", "shop:orders"},
		{"", "orders.dead", "", "orders.dead"},
		{"warren.wait.1s", "orders", "", "warren.wait.1s:orders"},
		{"", "", "", "amq.default"},
	} {
		equal(t, broker.DestinationName(c.exchange, c.key, c.queue), c.want)
	}
}

// TestMetrics works a few messages of each fate and holds the metrics against them,
// and the number of their series against what the configuration explains.
func TestMetrics(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declareQueues(t, v, broker.Queue{Name: "orders", Type: Quorum, Passive: true}) // or the first to wait may be refused, and is counted
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	r := runConfig(t, Config{Nodes: []string{v.URL}, Version: "1.2.3", Telemetry: Telemetry{MeterProvider: provider}, Queues: []Queue{
		{Name: "orders", MaxAttempts: 2, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
			switch d.Type {
			case "fails once":
				if d.Attempt == 1 {
					return errors.New("no")
				}
			case "exhausts":
				panic("ouch")
			case "permanent":
				return Permanent(errors.New("no"))
			}
			return nil
		})},
		{Name: "other", Processor: noop},
	}}, nil)
	for i := range 20 {
		// Nothing that a publisher chooses may become a series.
		unique := fmt.Sprint(i)
		v.Publish(t, "orders", amqp.Publishing{MessageId: unique, ReplyTo: "nobody-" + unique, CorrelationId: unique, AppId: unique})
	}
	v.Publish(t, "orders", amqp.Publishing{Type: "fails once"}, amqp.Publishing{Type: "exhausts"}, amqp.Publishing{Type: "permanent"})
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		q := r.Status().Queues[0]
		return q.Done == 21 && q.InFlight == 0 && v.Ready(t, "orders.dead") == 2 && v.Unacked(t, "orders") == 0
	}, "all is done")

	got := map[string]float64{}
	series := 0
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	for _, m := range data.ScopeMetrics[0].Metrics {
		add := func(set attribute.Set, value float64) {
			series++
			var labels []string
			for _, key := range []attribute.Key{meters.AttrVerdict, meters.AttrReason, broker.AttrPurpose, "error.type", "version"} {
				if v, ok := set.Value(key); ok {
					labels = append(labels, v.String())
				}
			}
			if q, ok := set.Value(meters.AttrQueue); !ok || q.AsString() == "orders" {
				got[strings.Join(append([]string{m.Name}, labels...), " ")] += value
			}
		}
		switch points := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range points.DataPoints {
				add(p.Attributes, float64(p.Value))
			}
		case metricdata.Gauge[int64]:
			for _, p := range points.DataPoints {
				add(p.Attributes, float64(p.Value))
			}
		case metricdata.Histogram[float64]:
			for _, p := range points.DataPoints {
				add(p.Attributes, float64(p.Count))
			}
		}
	}
	for name, want := range map[string]float64{
		"messaging.client.consumed.messages":              25,
		"messaging.process.duration":                      21,
		"messaging.process.duration error":                1,
		"messaging.process.duration panic":                2,
		"messaging.process.duration permanent":            1,
		"messaging.client.sent.messages wait":             2,
		"messaging.client.sent.messages dead_letter":      2,
		"messaging.client.sent.messages reply unroutable": 20,
		"warren.attempts ack":                             21,
		"warren.attempts retry":                           2,
		"warren.attempts dead":                            2,
		"warren.dead_letters exhausted":                   1,
		"warren.dead_letters permanent":                   1,
		"warren.parked":                                   2,
		"warren.slots":                                    8,
		"warren.prefetch":                                 16,
		"warren.deliveries.in_flight":                     0,
		"warren.queue.consuming":                          1,
		"warren.queue.braked":                             0,
		"warren.queue.paused":                             0,
		"warren.queue.idle":                               0,
		"warren.queue.stranded":                           0,
		"warren.connection.state":                         1,
		"warren.build.info 1.2.3":                         1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if lag := got["warren.ack.lag"]; lag < 1 || lag > 25 {
		t.Errorf("warren.ack.lag was recorded %v times, want at least once and at most for each", lag)
	}
	// Of each queue 8 gauges and 8 counters, and the dead letters of 5 reasons; 3 of
	// none; and what orders has recorded: durations, sent, parked and the lag.
	if want := 2*(8+8+5) + 3 + 4 + 3 + 1 + 1; series != want {
		t.Errorf("there are %d series, want %d:\n%v", series, want, slices.Sorted(maps.Keys(got)))
	}
}

// TestStatusSaysWhyAQueueIsNotConsumed deletes a queue that Warren may not declare:
// it is not consumed until somebody else declares it again.
func TestStatusSaysWhyAQueueIsNotConsumed(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declareAll(t, v, "orders")
	r := run(t, []string{v.URL}, Queue{Name: "orders", Passive: true, RetryMax: time.Second, EnvPrefix: "WARREN_QUEUE_ORDERS_", Processor: noop})
	equal(t, r.Status().Queues, []QueueStatus{{Queue: "orders", Concurrency: 8}})
	equal(t, r.Healthy(), nil)
	v.DeleteQueue(t, "orders")
	rabbittest.Eventually(t, 2*time.Second, func() bool { return r.Status().Queues[0].Reason != "" }, "the queue is not consumed")
	rabbittest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(r.Status().Queues[0].Reason, "queue orders is missing") }, "it says why")
	declareAll(t, v, "orders")
	rabbittest.Eventually(t, 5*time.Second, func() bool { return r.Status().Queues[0].Reason == "" }, "the queue is consumed again")
}

// TestAStarvedQueueIsConsumedAnew lets somebody else be the only one that the broker
// hands messages to, and who has as many as it takes.
func TestAStarvedQueueIsConsumedAnew(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declareAll(t, v, "orders") // and the wait queues
	v.DeleteQueue(t, "orders")
	v.Declare(t, "orders", amqp.Table{"x-single-active-consumer": true})
	other := v.Channel(t)
	if err := other.Qos(1, 0, false); err != nil {
		t.Fatal(err)
	}
	taken, err := other.Consume("orders", "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	v.Publish(t, "orders", amqp.Publishing{MessageId: "o-1"}, amqp.Publishing{MessageId: "o-2"})
	<-taken
	l := newLedger()
	r := runConfig(t, Config{Nodes: []string{v.URL}, Queues: []Queue{{Name: "orders", Passive: true, RetryMax: time.Second, Processor: l.done()}}},
		func(c *Consumer) { c.loops[0].starved.After = time.Second })
	rabbittest.Eventually(t, 15*time.Second, func() bool { return contains(r.log, "consuming it anew") }, "the queue is consumed anew")
	equal(t, r.Status().Queues[0].Reason, "")
	equal(t, r.loops[0].state.Idle(time.Now()) > time.Second, true)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.Status().Queues[0].Done == 2 }, "both are done")
}

// TestAStandbyIsStarvedFromWhenThereAreMessages has a queue whose messages go to somebody
// else from its first one on: it is named then, not sooner for having been empty long.
func TestAStandbyIsStarvedFromWhenThereAreMessages(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declareAll(t, v, "orders")
	v.DeleteQueue(t, "orders")
	v.Declare(t, "orders", amqp.Table{"x-single-active-consumer": true})
	other := v.Channel(t)
	if err := other.Qos(1, 0, false); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Consume("orders", "", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	r := runConfig(t, Config{Nodes: []string{v.URL}, Queues: []Queue{{Name: "orders", Passive: true, RetryMax: time.Second, Processor: noop}}},
		func(c *Consumer) { c.loops[0].starved.After = time.Second })
	<-time.After(pulse.Every + time.Second) // the queue is looked at, and empty
	if contains(r.log, "hands none out") {
		t.Error("an empty queue counts as starved")
	}
	published := time.Now()
	v.Publish(t, "orders", amqp.Publishing{MessageId: "o-1"}, amqp.Publishing{MessageId: "o-2"})
	line := regexp.MustCompile(`level=WARN msg="the queue has messages, but the broker hands none out; consuming it anew" queue=orders messages=1 duration=(\S+)`)
	var named []string
	rabbittest.Eventually(t, 2*starved.MaxEvery, func() bool { named = line.FindStringSubmatch(r.log.String()); return named != nil }, "the queue is named")
	starved, err := time.ParseDuration(named[1])
	if since := time.Since(published); err != nil || starved < time.Second || starved > since+time.Second {
		t.Errorf("starved for %v (%v), the messages have been there for %v", starved, err, since)
	}
}

// TestALoopThatIsStuckIsUnhealthy has a loop show no turn for long: the queue's while a
// minute passes, and the supervisor's.
func TestALoopThatIsStuckIsUnhealthy(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	r := run(t, []string{v.URL}, Queue{Name: "orders", Processor: noop})
	rabbittest.Eventually(t, 2*pulse.Every, func() bool { return contains(r.log, "msg=consuming") }, "the queue is consumed")
	long := time.Now().Add(-61 * time.Second)
	r.turned.Beat(long)
	if err := r.Healthy(); err == nil || !strings.Contains(err.Error(), "the loop that keeps the connection has been stuck for 1m1s") {
		t.Errorf("supervisor without a turn: got %v, want what is stuck", err)
	}
	r.turned.Beat(time.Now())
	r.loops[0].state.Turned.Beat(long)
	if err := r.Healthy(); err == nil || !strings.Contains(err.Error(), "the loop of queue orders has been stuck for 1m1s") {
		t.Errorf("queue without a turn: got %v, want what is stuck", err)
	}
	rabbittest.Eventually(t, 2*pulse.Every, func() bool { return r.Healthy() == nil }, "the next turn of the loop makes it well")
}

// An error may hold all of a body, and is kept, in spans and among the last failures.
func TestErrorsAreKeptShortened(t *testing.T) {
	long := &PanicError{Value: strings.Repeat("x", 1<<20), Stack: "here"}
	recorder := tracetest.NewSpanRecorder()
	_, span := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test").Start(t.Context(), "process orders")
	endAttempt(span, verdict{}, long)
	s := recorder.Ended()[0]
	if n := len(s.Status().Description); n != broker.MaxErrorBytes {
		t.Errorf("the status has %d bytes, want %d", n, broker.MaxErrorBytes)
	}
	got := map[attribute.Key]string{}
	for _, a := range s.Events()[0].Attributes {
		got[a.Key] = a.Value.AsString()
	}
	if got["exception.message"] != s.Status().Description || got["exception.type"] != "*panics.Error" || got["exception.stacktrace"] != "here" {
		t.Errorf("the event %q has %.200q, want the text of the status, the type and the stack", s.Events()[0].Name, got)
	}

	e := &executor{state: new(meters.Queue), log: slog.New(slog.DiscardHandler)}
	e.logFailure(t.Context(), slog.LevelWarn, "attempt failed", &job{}, outcome{err: long})
	if n := len(e.state.Failures.Last(1)[0].Error); n != broker.MaxErrorBytes {
		t.Errorf("the text of a failure has %d bytes, want %d", n, broker.MaxErrorBytes)
	}
}
