package consumer

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// scopeName names this package to whoever receives its spans and metrics.
const scopeName = "github.com/warrenmq/warren/consumer"

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
	attrAttempt   = attribute.Key("warren.attempt")    // 1 is the first
	attrVerdict   = attribute.Key("warren.verdict")    // ack, retry, dead or return
	attrReason    = attribute.Key("warren.reason")     // of a dead letter
	attrNotBefore = attribute.Key("warren.not_before") // of a wait, RFC 3339
	attrPurpose   = attribute.Key("warren.purpose")    // of a publish: see the constants
)

// Why Warren publishes a message.
const (
	purposeWait       = "wait"        // until its next attempt, or its first
	purposeDeadLetter = "dead_letter" // for an operator
	purposeReply      = "reply"       // the result, to reply-to
	purposeReturn     = "return"      // to its own queue, in place of giving it back
	purposeOutbox     = "outbox"      // for a processor, or another program
)

// tracing makes the spans of one queue. A span for each attempt hangs on the
// publisher's or, from the second on, on that of the wait before it; a span for each
// publish hangs on that of the attempt. So a message has one trace, however often it
// is tried.
type tracing struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	link       bool
	queue      string
	name       string // of an attempt at a message that was published right to the queue
	attempt    []trace.SpanStartOption
	publish    []trace.SpanStartOption
}

func newTracing(t Telemetry, queue string) tracing {
	return tracing{
		tracer:     t.TracerProvider.Tracer(scopeName, trace.WithSchemaURL(semconv.SchemaURL)),
		propagator: t.Propagator,
		link:       t.Link,
		queue:      queue,
		name:       "process " + queue,
		attempt:    []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer)},
		publish:    []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer)},
	}
}

// parent returns ctx with the trace context that the headers of a delivery carry.
func (t *tracing) parent(ctx context.Context, d *amqp.Delivery) context.Context {
	if len(d.Headers) == 0 {
		return ctx
	}
	return t.propagator.Extract(ctx, headerCarrier(d.Headers))
}

// processing are the attributes that all attempts have in common.
var processing = [3]attribute.KeyValue{
	semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess,
}

// startAttempt begins the span of an attempt. Only one that is recorded pays for its
// attributes.
func (t *tracing) startAttempt(ctx context.Context, j *job, attempt int) (context.Context, trace.Span) {
	options := t.attempt
	if _, ours := j.delivery.Headers[headerRoutingKey]; t.link && !ours && attempt == 1 {
		options = append(slices.Clip(options), trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(ctx)))
	}
	ctx, span := t.tracer.Start(ctx, t.name, options...)
	if !span.IsRecording() {
		return ctx, span
	}
	d := &j.delivery
	exchange, key := firstPublished(d)
	destination := destinationName(exchange, key, t.queue)
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
	if d.CorrelationId != "" {
		attributes = append(attributes, semconv.MessagingMessageConversationID(d.CorrelationId))
	}
	span.SetAttributes(append(attributes, j.server()...)...)
	return ctx, span
}

// endAttempt ends the span of an attempt that returned err.
func endAttempt(span trace.Span, v verdict, err error) {
	if span.IsRecording() {
		span.SetAttributes(attrVerdict.String(v.action.String()))
		if err != nil {
			recordError(span, err)
		}
	}
	span.End()
}

// startPublish begins the span of a publish, and writes its context into the headers
// of the message.
func (t *tracing) startPublish(ctx context.Context, j *job, purpose, exchange, key string, msg *amqp.Publishing) (context.Context, trace.Span) {
	name := "send"
	destination := destinationName(exchange, key, "")
	if purpose != purposeReply || len(destination) <= 64 {
		name += " " + destination
	}
	ctx, span := t.tracer.Start(ctx, name, t.publish...)
	if msg.Headers == nil {
		msg.Headers = amqp.Table{}
	}
	t.propagator.Inject(ctx, headerCarrier(msg.Headers))
	if !span.IsRecording() {
		return ctx, span
	}
	span.SetAttributes(
		semconv.MessagingSystemRabbitMQ,
		semconv.MessagingOperationName("send"),
		semconv.MessagingOperationTypeSend,
		semconv.MessagingDestinationName(destination),
		semconv.MessagingRabbitMQDestinationRoutingKey(key),
		attrPurpose.String(purpose),
	)
	if msg.MessageId != "" {
		span.SetAttributes(semconv.MessagingMessageID(msg.MessageId))
	}
	if msg.CorrelationId != "" {
		span.SetAttributes(semconv.MessagingMessageConversationID(msg.CorrelationId))
	}
	if due, ok := msg.Headers[headerNotBefore].(int64); ok && purpose == purposeWait {
		span.SetAttributes(attrNotBefore.String(time.UnixMilli(due).UTC().Format("2006-01-02T15:04:05.000Z07:00")))
	}
	if reason, ok := msg.Headers[headerReason].(string); ok && purpose == purposeDeadLetter {
		span.SetAttributes(attrReason.String(reason))
	}
	span.SetAttributes(j.server()...)
	return ctx, span
}

func endPublish(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		recordError(span, err)
	}
	span.End()
}

func recordError(span trace.Span, err error) {
	options := []trace.EventOption{}
	if p, ok := errors.AsType[*PanicError](err); ok {
		options = append(options, trace.WithAttributes(semconv.ExceptionStacktrace(p.Stack)))
	}
	span.RecordError(err, options...)
	span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
	span.SetStatus(codes.Error, shortened(err.Error(), maxErrorBytes))
}

// errorType is a name for what went wrong, of which there are few.
func errorType(err error) string {
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

// destinationName is how the conventions name where a RabbitMQ message goes: what of
// exchange, routing key and queue there is, the same name once.
func destinationName(exchange, key, queue string) string {
	if queue == key {
		queue = ""
	}
	parts := slices.DeleteFunc([]string{exchange, key, queue}, func(p string) bool { return p == "" })
	return orDefault(strings.Join(parts, ":"), "amq.default")
}

// server are the attributes of the node that the job's delivery came from.
func (j *job) server() []attribute.KeyValue {
	if j.sub == nil {
		return nil
	}
	return j.sub.session.server
}

// serverAttributes are those of a node, host:port.
func serverAttributes(node string) []attribute.KeyValue {
	host, port, err := net.SplitHostPort(node)
	if err != nil {
		return nil
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil
	}
	return []attribute.KeyValue{semconv.ServerAddress(host), semconv.ServerPort(n)}
}

// traced returns log with the ids of the span of ctx, if it has one.
func traced(ctx context.Context, log *slog.Logger) *slog.Logger {
	for _, a := range spanAttrs(trace.SpanContextFromContext(ctx)) {
		log = log.With(a)
	}
	return log
}

// spanAttrs are what a line of the log says of a span; nothing if there is none.
func spanAttrs(s trace.SpanContext) []slog.Attr {
	if !s.IsValid() {
		return nil
	}
	return []slog.Attr{slog.String("trace_id", s.TraceID().String()), slog.String("span_id", s.SpanID().String())}
}

// headerCarrier lets a propagator read and write AMQP headers.
type headerCarrier amqp.Table

func (c headerCarrier) Get(key string) string {
	switch v := c[key].(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

func (c headerCarrier) Set(key, value string) { c[key] = value }

func (c headerCarrier) Keys() []string { return slices.Collect(maps.Keys(c)) }
