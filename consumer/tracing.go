package consumer

import (
	"context"
	"errors"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/meters"
)

// Telemetry says where the spans and metrics of a [Consumer] go.
type Telemetry struct {
	// TracerProvider takes the spans. Nil means that there are none.
	TracerProvider trace.TracerProvider
	// MeterProvider takes the metrics. Nil means that there are none.
	MeterProvider metric.MeterProvider
	// Propagator reads and writes the trace context in headers. Nil means that of
	// the W3C, with baggage.
	Propagator propagation.TextMapPropagator
	// Link is true if the first attempt at a message begins a trace of its own,
	// linked to the publisher's, rather than continuing that.
	Link bool
}

func (t Telemetry) withDefaults() Telemetry {
	if t.TracerProvider == nil {
		t.TracerProvider = tracenoop.NewTracerProvider()
	}
	if t.MeterProvider == nil {
		t.MeterProvider = metricnoop.NewMeterProvider()
	}
	if t.Propagator == nil {
		t.Propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	}
	return t
}

// Attributes of spans for what the conventions have no name for. Those of metrics
// are in metrics.go.
const (
	attrAttempt       = attribute.Key("warren.attempt")     // 1 is the first
	attrRedelivered   = attribute.Key("warren.redelivered") // true: another worker may have done some of it
	attrDeliveryCount = attribute.Key("warren.delivery_count")
	attrReplayed      = attribute.Key("warren.replayed") // so often from the dead letters
)

// tracing makes the spans of one queue. A span for each attempt hangs on the
// publisher's or, from the second on, on that of the wait before it; the span of each
// publish, which package broker makes, hangs on that of the attempt. So a message has one trace, however often it
// is tried.
type tracing struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	link       bool
	queue      string
	name       string // of an attempt at a message that was published right to the queue
	attempt    []trace.SpanStartOption
}

func newTracing(t Telemetry, queue string) tracing {
	return tracing{
		tracer:     t.TracerProvider.Tracer(meters.ScopeName, trace.WithSchemaURL(semconv.SchemaURL)),
		propagator: t.Propagator,
		link:       t.Link,
		queue:      queue,
		name:       "process " + queue,
		attempt:    []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer)},
	}
}

// parent returns ctx with the trace context that the headers of a delivery carry.
func (t *tracing) parent(ctx context.Context, d *amqp.Delivery) context.Context {
	if len(d.Headers) == 0 {
		return ctx
	}
	return t.propagator.Extract(ctx, broker.HeaderCarrier(d.Headers))
}

// processing are the attributes that all attempts have in common.
var processing = [3]attribute.KeyValue{
	semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess,
}

// startAttempt begins the span of an attempt. Only one that is recorded pays for its
// attributes.
func (t *tracing) startAttempt(ctx context.Context, j *job, attempt int) (context.Context, trace.Span) {
	options := t.attempt
	if _, again := j.delivery.Headers[broker.HeaderRoutingKey]; t.link && !again && attempt == 1 {
		options = append(slices.Clip(options), trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(ctx)))
	}
	ctx, span := t.tracer.Start(ctx, t.name, options...)
	if !span.IsRecording() {
		return ctx, span
	}
	d := &j.delivery
	exchange, key := firstPublished(j)
	destination := broker.DestinationName(exchange, key, t.queue)
	if destination != t.queue {
		span.SetName("process " + destination)
	}
	attributes := append(make([]attribute.KeyValue, 0, 12), // all in one go: each call locks the span
		processing[0], processing[1], processing[2],
		semconv.MessagingDestinationName(destination),
		semconv.MessagingRabbitMQDestinationRoutingKey(key),
		semconv.MessagingRabbitMQMessageDeliveryTag(int(d.DeliveryTag)),
		semconv.MessagingMessageID(d.MessageId),
		attrAttempt.Int(attempt),
	)
	if j.history.redelivered {
		attributes = append(attributes, attrRedelivered.Bool(true))
	}
	if n, _ := broker.Integer(d.Headers[broker.HeaderReplayed]); n > 0 {
		attributes = append(attributes, attrReplayed.Int64(n))
	}
	if d.Redelivered {
		span.AddEvent("redelivered", trace.WithAttributes(attrDeliveryCount.Int64(j.history.deliveryCount)))
	}
	if d.CorrelationId != "" {
		attributes = append(attributes, semconv.MessagingMessageConversationID(d.CorrelationId))
	}
	span.SetAttributes(append(attributes, j.sub.server()...)...)
	return ctx, span
}

// endAttempt ends the span of an attempt that returned err.
func endAttempt(span trace.Span, v verdict, err error) {
	if span.IsRecording() {
		span.SetAttributes(meters.AttrVerdict.String(v.action.String()))
		if err != nil {
			recordError(span, err)
		}
	}
	span.End()
}

func recordError(span trace.Span, err error) {
	var stack []attribute.KeyValue
	if p, ok := errors.AsType[*PanicError](err); ok {
		stack = append(stack, semconv.ExceptionStacktrace(p.Stack))
	}
	broker.RecordError(span, err, stack...)
	span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
}

// errorType is a name for what went wrong, of which there are few; empty for nothing.
func errorType(err error) string {
	if err == nil {
		return ""
	}
	if m, ok := errors.AsType[*marked](err); ok && m.verdict.reason != "" {
		return m.verdict.reason
	}
	if _, ok := errors.AsType[*PanicError](err); ok {
		return "panic"
	}
	if errors.Is(err, ErrTimeout) {
		return "timeout"
	}
	if errors.Is(err, ErrShutdown) {
		return "shutdown"
	}
	return "error"
}

// server are the attributes of the node that the subscription's deliveries come from.
func (s *subscription) server() []attribute.KeyValue {
	if s == nil {
		return nil
	}
	return s.session.Consume.Server
}
