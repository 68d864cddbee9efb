package broker

import (
	"context"
	"errors"
	"fmt"
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

	"github.com/warrenmq/warren/consumer/internal/meters"
)

// A Purpose is why Warren publishes a message.
type Purpose string

// The purposes there are.
const (
	ForWait       Purpose = "wait"        // until its next attempt, or its first
	ForDeadLetter Purpose = "dead_letter" // for an operator
	ForReply      Purpose = "reply"       // the result, to reply-to
	ForReturn     Purpose = "return"      // to its own queue, in place of requeuing it
	ForSchedule   Purpose = "schedule"    // a firing
	ForProgram    Purpose = "publish"     // for a program that asked for it
	ForOutbox     Purpose = "outbox"      // for a processor, or another program
	ForReplay     Purpose = "replay"      // a dead letter, or what waits, for an operator
)

// Attributes of spans and metrics that the conventions have no name for.
const (
	AttrPurpose   = attribute.Key("warren.purpose")
	AttrNotBefore = attribute.Key("warren.not_before") // of a wait, RFC 3339
)

// Instruments make the spans and counts of what is published.
type Instruments struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	sent       metric.Int64Counter
}

// NewInstruments makes Instruments.
func NewInstruments(tracers trace.TracerProvider, provider metric.MeterProvider, propagator propagation.TextMapPropagator) (*Instruments, error) {
	sent, err := provider.Meter(meters.ScopeName, metric.WithSchemaURL(semconv.SchemaURL)).Int64Counter("messaging.client.sent.messages",
		metric.WithUnit("{message}"), metric.WithDescription("Messages published by Warren, confirmed or not."))
	if err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	return &Instruments{
		tracer:     tracers.Tracer(meters.ScopeName, trace.WithSchemaURL(semconv.SchemaURL)),
		propagator: propagator,
		sent:       sent,
	}, nil
}

// noInstruments leave the trace context of a message as it is.
var noInstruments = &Instruments{
	tracer:     tracenoop.NewTracerProvider().Tracer(meters.ScopeName),
	propagator: propagation.NewCompositeTextMapPropagator(),
	sent:       metricnoop.Int64Counter{},
}

var asProducer = trace.WithSpanKind(trace.SpanKindProducer)

// start begins the span of a publish, and writes its context into the headers of the
// message. What it returns ends and counts it.
func (in *Instruments) start(ctx context.Context, c *Conn, o *Outgoing) (context.Context, func(error)) {
	if o.Purpose == "" {
		return ctx, func(error) {}
	}
	msg := &o.Message
	destination := DestinationName(o.Exchange, o.Key, "")
	name := "send"
	if o.Purpose != ForReply || len(destination) <= 64 {
		name += " " + destination
	}
	parent := ctx
	if o.Purpose == ForOutbox { // its attempt has ended long ago, and left its trace there
		parent = in.propagator.Extract(ctx, HeaderCarrier(msg.Headers))
	}
	spanCtx, span := in.tracer.Start(parent, name, asProducer)
	headers := maps.Clone(msg.Headers) // the caller's may be another message's as well
	if headers == nil {
		headers = amqp.Table{}
	}
	in.propagator.Inject(spanCtx, HeaderCarrier(headers))
	if len(headers) > 0 {
		msg.Headers = headers
	}
	if span.IsRecording() {
		span.SetAttributes(append(in.attributes(o, destination), c.Server...)...)
	}
	return spanCtx, func(err error) {
		if err != nil && span.IsRecording() {
			RecordError(span, err)
			span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
		}
		span.End()
		in.count(spanCtx, o, err)
	}
}

// RecordError does what the span's own does, and sets its status; but the text, which may have
// all of a body in it, is shortened, since it is in memory until the span is exported.
func RecordError(span trace.Span, err error, more ...attribute.KeyValue) {
	text := Shortened(err.Error(), MaxErrorBytes)
	span.AddEvent(semconv.ExceptionEventName, trace.WithAttributes(append(more, semconv.ExceptionType(fmt.Sprintf("%T", err)), semconv.ExceptionMessage(text))...))
	span.SetStatus(codes.Error, text)
}

func (in *Instruments) attributes(o *Outgoing, destination string) []attribute.KeyValue {
	msg := &o.Message
	out := append(make([]attribute.KeyValue, 0, 12),
		semconv.MessagingSystemRabbitMQ,
		semconv.MessagingOperationName("send"),
		semconv.MessagingOperationTypeSend,
		semconv.MessagingDestinationName(destination),
		semconv.MessagingRabbitMQDestinationRoutingKey(o.Key),
		AttrPurpose.String(string(o.Purpose)),
	)
	if msg.MessageId != "" {
		out = append(out, semconv.MessagingMessageID(msg.MessageId))
	}
	if msg.CorrelationId != "" {
		out = append(out, semconv.MessagingMessageConversationID(msg.CorrelationId))
	}
	if due, ok := msg.Headers[HeaderNotBefore].(int64); ok && o.Purpose == ForWait {
		out = append(out, AttrNotBefore.String(time.UnixMilli(due).UTC().Format("2006-01-02T15:04:05.000Z07:00")))
	}
	if reason, ok := msg.Headers[HeaderReason].(string); ok && o.Purpose == ForDeadLetter {
		out = append(out, meters.AttrReason.String(reason))
	}
	return out
}

func (in *Instruments) count(ctx context.Context, o *Outgoing, err error) {
	attrs := []attribute.KeyValue{semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationName("send"), AttrPurpose.String(string(o.Purpose))}
	if o.Queue != "" {
		attrs = append(attrs, meters.AttrQueue.String(o.Queue))
	}
	if err != nil {
		attrs = append(attrs, semconv.ErrorTypeKey.String(errorType(err)))
	}
	in.sent.Add(ctx, 1, metric.WithAttributes(attrs...))
}

func errorType(err error) string {
	switch {
	case errors.Is(err, ErrUnroutable):
		return "unroutable"
	case errors.Is(err, ErrRefused):
		return "refused"
	case errors.Is(err, ErrBlocked):
		return "blocked"
	case errors.Is(err, ErrNoConfirm):
		return "unconfirmed"
	case errors.Is(err, ErrUnsendable):
		return "unsendable"
	}
	return "error"
}

// DestinationName is how the conventions name where a RabbitMQ message goes: what of
// exchange, routing key and queue there is, the same name once.
func DestinationName(exchange, key, queue string) string {
	if queue == key {
		queue = ""
	}
	parts := slices.DeleteFunc([]string{exchange, key, queue}, func(p string) bool { return p == "" })
	if len(parts) == 0 {
		return "amq.default"
	}
	return strings.Join(parts, ":")
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

// HeaderCarrier lets a propagator read and write AMQP headers.
type HeaderCarrier amqp.Table

// Get returns a header that is text.
func (c HeaderCarrier) Get(key string) string {
	switch v := c[key].(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

// Set sets a header.
func (c HeaderCarrier) Set(key, value string) { c[key] = value }

// Keys are the names of all headers.
func (c HeaderCarrier) Keys() []string { return slices.Collect(maps.Keys(c)) }

// Traced returns log with the ids of the span of ctx, if it has one.
func Traced(ctx context.Context, log *slog.Logger) *slog.Logger {
	for _, a := range SpanAttrs(trace.SpanContextFromContext(ctx)) {
		log = log.With(a)
	}
	return log
}

// SpanAttrs are what a line of the log says of a span; nothing if there is none.
func SpanAttrs(s trace.SpanContext) []slog.Attr {
	if !s.IsValid() {
		return nil
	}
	return []slog.Attr{slog.String("trace_id", s.TraceID().String()), slog.String("span_id", s.SpanID().String())}
}
