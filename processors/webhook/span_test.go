package webhook_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/webhook"
)

// attempt starts a span as the daemon does for an attempt.
func attempt(t *testing.T) (*tracetest.SpanRecorder, trace.Tracer) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	return recorder, provider.Tracer("test")
}

func TestSpanOfTheRequest(t *testing.T) {
	for _, test := range []struct {
		status int
		code   codes.Code
		kind   string
	}{{200, codes.Unset, ""}, {503, codes.Error, "503"}, {404, codes.Error, "404"}, {0, codes.Error, "network"}} {
		headers := make(chan http.Header, 1)
		server := serve(t, func(w http.ResponseWriter, r *http.Request) {
			headers <- r.Header
			if test.status == 0 {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(test.status)
		})
		recorder, tracer := attempt(t)
		member, err := baggage.NewMember("tenant", "a")
		if err != nil {
			t.Fatal(err)
		}
		bag, err := baggage.New(member)
		if err != nil {
			t.Fatal(err)
		}
		ctx, parent := tracer.Start(baggage.ContextWithBaggage(t.Context(), bag), "process orders")
		p := newProcessor(t, webhook.Config{URL: strings.Replace(server, "http://", "http://ada:hunter2@", 1) + "/t0psecret?key=s3cret"})
		_, _ = consumertest.Run(ctx, p, consumer.Delivery{}) // its error is TestStatusDecides's
		parent.End()

		span := recorder.Ended()[0]
		if span.Name() != "POST" || span.SpanKind() != trace.SpanKindClient || span.Parent().SpanID() != parent.SpanContext().SpanID() || span.Status().Code != test.code {
			t.Errorf("%d: the span is %s, a %v, on %v, with %v", test.status, span.Name(), span.SpanKind(), span.Parent().SpanID(), span.Status())
		}
		got := make(map[string]string)
		for _, kv := range span.Attributes() {
			got[string(kv.Key)] = kv.Value.String()
		}
		host, port, _ := strings.Cut(strings.TrimPrefix(server, "http://"), ":")
		want := map[string]string{"http.request.method": "POST", "url.full": server, "server.address": host, "server.port": port}
		if test.status != 0 {
			want["http.response.status_code"], want["network.protocol.version"] = fmt.Sprint(test.status), "1.1"
		}
		if test.kind != "" {
			want["error.type"] = test.kind
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%d: attributes %v, want %v", test.status, got, want)
		}
		if all := fmt.Sprint(got, span.Status(), span.Events()); strings.Contains(all, "secret") || strings.Contains(all, "s3cret") || strings.Contains(all, "hunter2") {
			t.Errorf("%d: the span shows a secret: %s", test.status, all)
		}
		header := <-headers
		wantParent := "00-" + span.SpanContext().TraceID().String() + "-" + span.SpanContext().SpanID().String() + "-01"
		if header.Get("Traceparent") != wantParent || header.Get("Baggage") != "tenant=a" {
			t.Errorf("%d: sent traceparent %q and baggage %q, want %q and tenant=a", test.status, header.Get("Traceparent"), header.Get("Baggage"), wantParent)
		}
	}
}
