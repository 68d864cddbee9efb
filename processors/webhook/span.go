package webhook

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/warrenmq/warren/consumer"
)

// startSpan begins the span of the request, below that of the attempt. Of the URL it
// has no more than is not secret. otelhttp would show all of it but the password.
func (p *processor) startSpan(ctx context.Context) (context.Context, trace.Span) {
	tracer := trace.SpanFromContext(ctx).TracerProvider().Tracer("github.com/warrenmq/warren/processors/webhook", trace.WithSchemaURL(semconv.SchemaURL))
	ctx, span := tracer.Start(ctx, http.MethodPost, trace.WithSpanKind(trace.SpanKindClient))
	if !span.IsRecording() {
		return ctx, span
	}
	attributes := []attribute.KeyValue{
		semconv.HTTPRequestMethodPost,
		semconv.URLFull(p.url.Scheme + "://" + p.url.Host),
		semconv.ServerAddress(p.url.Hostname()),
	}
	if port, err := strconv.Atoi(p.port()); err == nil {
		attributes = append(attributes, semconv.ServerPort(port))
	}
	span.SetAttributes(attributes...)
	return ctx, span
}

func (p *processor) port() string {
	switch port := p.url.Port(); {
	case port != "":
		return port
	case p.url.Scheme == "https":
		return "443"
	}
	return "80"
}

// endSpan writes what was answered into the span.
func endSpan(span trace.Span, response *http.Response) {
	if !span.IsRecording() {
		return
	}
	version := strconv.Itoa(response.ProtoMajor)
	if response.ProtoMajor < 2 {
		version += "." + strconv.Itoa(response.ProtoMinor)
	}
	span.SetAttributes(semconv.HTTPResponseStatusCode(response.StatusCode), semconv.NetworkProtocolVersion(version))
	if response.StatusCode/100 != 2 {
		status := strconv.Itoa(response.StatusCode)
		failSpan(span, status, errors.New(status))
	}
}

func failSpan(span trace.Span, kind string, err error) {
	span.SetAttributes(semconv.ErrorTypeKey.String(kind))
	span.SetStatus(codes.Error, err.Error())
}

// errorType is a name for what kept the answer from coming.
func errorType(err error) string {
	if errors.Is(err, consumer.ErrTimeout) {
		return "timeout"
	}
	return "network"
}
