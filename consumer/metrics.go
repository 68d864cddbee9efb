package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// Attributes of metrics. Each has few values, whatever publishers send: the queues
// of the configuration, the verdicts, reasons and purposes of this package.
const (
	attrQueue = broker.AttrQueue
)

// meters are the instruments of a Consumer.
type meters struct {
	process    metric.Float64Histogram
	ackLag     metric.Float64Histogram
	dead       metric.Int64Counter
	parked     metric.Int64Counter
	reconnects metric.Int64Counter
}

// durationBuckets are those that the conventions give for messaging.process.duration,
// in seconds, continued for work that takes minutes.
var durationBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300}

// newMeters makes the instruments, and has the state of the loops observed.
func newMeters(provider metric.MeterProvider, c *Consumer) (*meters, error) {
	meter := provider.Meter(broker.ScopeName, metric.WithSchemaURL(semconv.SchemaURL))
	m := &meters{}
	var errs []error
	counter := func(to *metric.Int64Counter, name, unit, description string) {
		var err error
		*to, err = meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
	}
	histogram := func(to *metric.Float64Histogram, name, description string, buckets []float64) {
		var err error
		*to, err = meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), metric.WithExplicitBucketBoundaries(buckets...))
		errs = append(errs, err)
	}
	histogram(&m.process, "messaging.process.duration", "How long an attempt took, its scope included.", durationBuckets)
	histogram(&m.ackLag, "warren.ack.lag", "From the end of the work to sending its acknowledgement, of the oldest of those sent together.", []float64{0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1, 1})
	counter(&m.dead, "warren.dead_letters", "{message}", "Messages dead-lettered by Warren, by reason: permanent, exhausted or undecodable.")
	counter(&m.parked, "warren.parked", "{message}", "Messages published to a wait queue, those on their way to a longer wait each time.")
	counter(&m.reconnects, "warren.reconnects", "{connection}", "Connections lost and made anew.")
	m.reconnects.Add(context.Background(), 0)

	gauge := func(name, unit, description string, observe func(metric.Int64Observer)) {
		_, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description),
			metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
				observe(o)
				return nil
			}))
		errs = append(errs, err)
	}
	// What every delivery adds to is counted by the loops themselves, and only looked
	// at from here: the instruments would cost it a microsecond.
	counted := func(name, unit, description string, observe func(metric.Int64Observer, *queueLoop)) {
		_, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description),
			metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
				for _, l := range c.loops {
					observe(o, l)
				}
				return nil
			}))
		errs = append(errs, err)
	}
	counted("messaging.client.consumed.messages", "{message}", "Deliveries taken from the broker to be worked.", func(o metric.Int64Observer, l *queueLoop) {
		o.Observe(l.state.consumed.Load(), metric.WithAttributes(conventional(l.executor.Name)...))
	})
	counted("warren.attempts", "{attempt}", "Attempts, by their verdict: ack, retry, dead or return.", func(o metric.Int64Observer, l *queueLoop) {
		for a, name := range actionNames {
			o.Observe(l.state.attempts[a].Load(), metric.WithAttributes(attrQueue.String(l.executor.Name), attrVerdict.String(name)))
		}
	})
	counted("warren.returned", "{message}", "Deliveries given back to their queue.", func(o metric.Int64Observer, l *queueLoop) {
		o.Observe(l.state.returned.Load(), metric.WithAttributes(attrQueue.String(l.executor.Name)))
	})
	counted("warren.repeats", "{message}", "Repeats of finished work that were acknowledged without running again.", func(o metric.Int64Observer, l *queueLoop) {
		o.Observe(l.state.repeats.Load(), metric.WithAttributes(attrQueue.String(l.executor.Name)))
	})
	perQueue := func(value func(*queueLoop) int64) func(metric.Int64Observer) {
		return func(o metric.Int64Observer) {
			for _, l := range c.loops {
				o.Observe(value(l), metric.WithAttributes(attrQueue.String(l.executor.Name)))
			}
		}
	}
	gauge("warren.deliveries.in_flight", "{delivery}", "Deliveries being worked on.", perQueue(func(l *queueLoop) int64 { return l.state.inFlight.Load() }))
	gauge("warren.slots", "{delivery}", "Deliveries that can be worked on at once.", perQueue(func(l *queueLoop) int64 { return int64(l.executor.Concurrency) }))
	gauge("warren.queue.consuming", "", "1 while the queue is consumed, else 0.", perQueue(func(l *queueLoop) int64 {
		if l.state.whyNot() == "" {
			return 1
		}
		return 0
	}))
	gauge("warren.queue.idle", "s", "How long no delivery has come although the queue has messages and slots are free; else 0.",
		perQueue(func(l *queueLoop) int64 { return int64(l.state.starved(time.Now()) / time.Second) }))
	gauge("warren.connection.state", "", "1 while connected to a node, else 0.", func(o metric.Int64Observer) {
		if c.connected() {
			o.Observe(1)
		} else {
			o.Observe(0)
		}
	})
	gauge("warren.build.info", "", "1, with the version.", func(o metric.Int64Observer) {
		o.Observe(1, metric.WithAttributes(attribute.String("version", c.cfg.Version)))
	})
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	return m, nil
}

// queueMeters are the instruments with the attributes of one queue worked out once:
// the way of a delivery shall not pay for that.
type queueMeters struct {
	*meters
	name   string
	queue  []metric.AddOption
	record []metric.RecordOption
	worked []metric.RecordOption // with the conventions' attributes
}

// conventional are the attributes that the conventions give to what is processed.
func conventional(queue string) []attribute.KeyValue {
	return []attribute.KeyValue{semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationName("process"), semconv.MessagingDestinationName(queue)}
}

func newQueueMeters(m *meters, queue string) queueMeters {
	set := attribute.NewSet(attrQueue.String(queue))
	// From the start on, so that an alert sees the first one: Prometheus takes what it
	// has not seen before for a counter that has always stood there.
	for _, reason := range []string{reasonPermanent, reasonExhausted, reasonUndecodable, reasonUndeliverable} {
		m.dead.Add(context.Background(), 0, metric.WithAttributes(attrQueue.String(queue), broker.AttrReason.String(reason)))
	}
	return queueMeters{
		meters: m,
		name:   queue,
		queue:  []metric.AddOption{metric.WithAttributeSet(set)},
		record: []metric.RecordOption{metric.WithAttributeSet(set)},
		worked: []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(conventional(queue)...))},
	}
}

// attempted records an attempt that took so long and returned err.
func (q *queueMeters) attempted(ctx context.Context, err error, took time.Duration) {
	if err == nil {
		q.process.Record(ctx, took.Seconds(), q.worked...)
		return
	}
	q.process.Record(ctx, took.Seconds(), metric.WithAttributes(append(conventional(q.name), semconv.ErrorTypeKey.String(errorType(err)))...))
}

// deadLettered counts a message that is in its dead-letter queue.
func (q *queueMeters) deadLettered(ctx context.Context, reason string) {
	q.dead.Add(ctx, 1, metric.WithAttributes(attrQueue.String(q.name), broker.AttrReason.String(reason)))
}
