package telemetry

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric"
)

func clearOTEL(t *testing.T) {
	t.Helper()
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"} {
		t.Setenv(name, "")
	}
}

func TestNothingConfiguredNothingTraced(t *testing.T) {
	for _, env := range []map[string]string{
		nil,
		{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
		{"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
	} {
		clearOTEL(t)
		for name, value := range env {
			t.Setenv(name, value)
		}
		tel, err := Start(t.Context(), "warren", "1.2.3", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, span := tel.TracerProvider.Tracer("t").Start(t.Context(), "s"); span.SpanContext().IsValid() || span.IsRecording() {
			t.Errorf("with %v a span is made: %v", env, span.SpanContext())
		}
		tel.Shutdown(t.Context())
	}
}

func TestPrometheusSeesMetrics(t *testing.T) {
	clearOTEL(t)
	tel, err := Start(t.Context(), "warren", "1.2.3", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Shutdown(t.Context())
	counter, err := tel.MeterProvider.Meter("t").Int64Counter("warren.parked", metric.WithUnit("{message}"))
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	recorder := httptest.NewRecorder()
	tel.Metrics.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", http.NoBody))
	body, err := io.ReadAll(recorder.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"warren_parked_total 3", "go_goroutines", "process_resident_memory_bytes", `service_name="warren"`, `service_version="1.2.3"`, `service_instance_id="`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("/metrics lacks %q:\n%s", want, body)
		}
	}
}

func TestUnknownExporterIsAClearError(t *testing.T) {
	clearOTEL(t)
	t.Setenv("OTEL_TRACES_EXPORTER", "zipkin")
	if _, err := Start(t.Context(), "warren", "1.2.3", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "OTEL_TRACES_EXPORTER") || !strings.Contains(err.Error(), "zipkin") {
		t.Errorf("got %v", err)
	}
}
