package meters

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// ScopeName names the instrumentation to whoever receives its spans and metrics.
const ScopeName = "github.com/warrenmq/warren/consumer"

// Attributes of metrics. Each has few values, whatever publishers send: the queues of the
// configuration, the verdicts and the reasons.
const (
	AttrQueue   = attribute.Key("warren.queue")
	AttrVerdict = attribute.Key("warren.verdict") // ack, retry, dead, return or reject
	AttrReason  = attribute.Key("warren.reason")  // of a dead letter
)

// A Source is what is looked at whenever the metrics are collected.
type Source struct {
	Version   string
	Connected func() bool
	Queues    []*Queue
	Verdicts  []string // on attempts
	Reasons   []string // for which messages are dead-lettered
}

// Meters are the instruments that something is recorded with.
type Meters struct {
	process    metric.Float64Histogram
	ackLag     metric.Float64Histogram
	dead       metric.Int64Counter
	parked     metric.Int64Counter
	reconnects metric.Int64Counter
}

// durationBuckets are those that the conventions give for messaging.process.duration,
// in seconds, continued for work that takes minutes.
var durationBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300}

// New makes the instruments, and has the source observed.
func New(provider metric.MeterProvider, s Source) (*Meters, error) {
	meter := provider.Meter(ScopeName, metric.WithSchemaURL(semconv.SchemaURL))
	m := &Meters{}
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
	counter(&m.dead, "warren.dead_letters", "{message}", "Messages dead-lettered by Warren, by reason: permanent, exhausted, undecodable, cancelled or, of a reply, undeliverable.")
	counter(&m.parked, "warren.parked", "{message}", "Messages published to a wait queue, those on their way to a longer wait each time.")
	counter(&m.reconnects, "warren.reconnects", "{connection}", "Connections lost and made anew.")
	errs = append(errs, s.observe(meter))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	m.reconnects.Add(context.Background(), 0)
	// From the start on, so that an alert sees the first one: Prometheus takes what it
	// has not seen before for a counter that has always stood there.
	for _, q := range s.Queues {
		for _, reason := range s.Reasons {
			m.dead.Add(context.Background(), 0, metric.WithAttributes(AttrQueue.String(q.Name), AttrReason.String(reason)))
		}
	}
	return m, nil
}

// observe has the queues and the connection looked at.
func (s Source) observe(meter metric.Meter) error {
	var errs []error
	counted := func(name, unit, description string, observe func(metric.Int64Observer, *Queue)) {
		_, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description), metric.WithInt64Callback(s.each(observe)))
		errs = append(errs, err)
	}
	gauge := func(name, unit, description string, value func(*Queue) int64) {
		_, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description),
			metric.WithInt64Callback(s.each(func(o metric.Int64Observer, q *Queue) { o.Observe(value(q), attributed(q)) })))
		errs = append(errs, err)
	}
	once := func(name, description string, observe func(metric.Int64Observer)) {
		_, err := meter.Int64ObservableGauge(name, metric.WithDescription(description), metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			observe(o)
			return nil
		}))
		errs = append(errs, err)
	}
	counted("messaging.client.consumed.messages", "{message}", "Deliveries taken from the broker to be worked.", func(o metric.Int64Observer, q *Queue) {
		o.Observe(q.Consumed.Load(), metric.WithAttributes(conventional(q.Name)...))
	})
	counted("warren.attempts", "{attempt}", "Attempts, by their verdict: ack, retry, dead or return.", func(o metric.Int64Observer, q *Queue) {
		for v, name := range s.Verdicts {
			o.Observe(q.Attempts[v].Load(), metric.WithAttributes(AttrQueue.String(q.Name), AttrVerdict.String(name)))
		}
	})
	counted("warren.returned", "{message}", "Deliveries requeued.", func(o metric.Int64Observer, q *Queue) {
		o.Observe(q.Returned.Load(), attributed(q))
	})
	counted("warren.repeats", "{message}", "Repeats of finished work that were acknowledged without running again.", func(o metric.Int64Observer, q *Queue) {
		o.Observe(q.Repeats.Load(), attributed(q))
	})
	gauge("warren.deliveries.in_flight", "{delivery}", "Deliveries being worked on.", func(q *Queue) int64 { return q.InFlight.Load() })
	gauge("warren.slots", "{delivery}", "Deliveries that can be worked on at once.", func(q *Queue) int64 { return int64(q.Slots) })
	gauge("warren.prefetch", "{delivery}", "Deliveries that the broker hands out at once, as set or found.", func(q *Queue) int64 { return q.Prefetch.Load() })
	gauge("warren.queue.consuming", "", "1 while the queue is consumed, else 0.", func(q *Queue) int64 { return flag(q.Reason() == "" && !q.Halt.On()) })
	gauge("warren.queue.paused", "", "1 while operators have the queue left alone: all daemons, or this one; else 0.", func(q *Queue) int64 { return flag(q.Halt.On()) })
	gauge("warren.queue.braked", "", "1 while what the processor depends on looks down and messages stay in the queue, else 0.", func(q *Queue) int64 { return flag(q.Brake.Braked()) })
	gauge("warren.queue.stranded", "{message}", "Messages known to wait for the queue although it is missing; 0 while it is there.", func(q *Queue) int64 { return q.Stranded.Count() })
	gauge("warren.queue.idle", "s", "How long no delivery has come although the queue has messages and slots are free; else 0.", func(q *Queue) int64 {
		return int64(q.Idle(time.Now()) / time.Second)
	})
	once("warren.connection.state", "1 while connected to a node, else 0.", func(o metric.Int64Observer) { o.Observe(flag(s.Connected())) })
	once("warren.build.info", "1, with the version.", func(o metric.Int64Observer) {
		o.Observe(1, metric.WithAttributes(attribute.String("version", s.Version)))
	})
	return errors.Join(errs...)
}

// each has all queues observed.
func (s Source) each(observe func(metric.Int64Observer, *Queue)) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		for _, q := range s.Queues {
			observe(o, q)
		}
		return nil
	}
}

func attributed(q *Queue) metric.MeasurementOption {
	return metric.WithAttributes(AttrQueue.String(q.Name))
}

func flag(on bool) int64 {
	if on {
		return 1
	}
	return 0
}

// Reconnected counts a connection that was lost.
func (m *Meters) Reconnected(ctx context.Context) { m.reconnects.Add(ctx, 1) }

// Of are the instruments with the attributes of one queue worked out once: the way of a
// delivery shall not pay for that.
type Of struct {
	meters *Meters
	name   string
	queue  []metric.AddOption
	record []metric.RecordOption
	worked []metric.RecordOption // with the conventions' attributes
}

// Of returns the instruments of the queue of that name.
func (m *Meters) Of(queue string) Of {
	set := attribute.NewSet(AttrQueue.String(queue))
	return Of{
		meters: m,
		name:   queue,
		queue:  []metric.AddOption{metric.WithAttributeSet(set)},
		record: []metric.RecordOption{metric.WithAttributeSet(set)},
		worked: []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(conventional(queue)...))},
	}
}

// conventional are the attributes that the conventions give to what is processed.
func conventional(queue string) []attribute.KeyValue {
	return []attribute.KeyValue{semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationName("process"), semconv.MessagingDestinationName(queue)}
}

// Attempted records an attempt that took so long. errorType is what went wrong; empty
// means nothing.
func (q *Of) Attempted(ctx context.Context, errorType string, took time.Duration) {
	if errorType == "" {
		q.meters.process.Record(ctx, took.Seconds(), q.worked...)
		return
	}
	q.meters.process.Record(ctx, took.Seconds(), metric.WithAttributes(append(conventional(q.name), semconv.ErrorTypeKey.String(errorType))...))
}

// Parked counts a message that is in a wait queue.
func (q *Of) Parked(ctx context.Context) { q.meters.parked.Add(ctx, 1, q.queue...) }

// DeadLettered counts a message that is in its dead-letter queue.
func (q *Of) DeadLettered(ctx context.Context, reason string) {
	q.meters.dead.Add(ctx, 1, metric.WithAttributes(AttrQueue.String(q.name), AttrReason.String(reason)))
}

// AckLag records how long an acknowledgement was held back.
func (q *Of) AckLag(d time.Duration) {
	q.meters.ackLag.Record(context.Background(), d.Seconds(), q.record...)
}
