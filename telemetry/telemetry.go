package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

const (
	// flushTimeout is how long the last spans may take to be exported.
	flushTimeout = 3 * time.Second
	// hopelessFlushTimeout is that when the collector did not answer before either.
	hopelessFlushTimeout = 500 * time.Millisecond
)

// Telemetry is where spans and metrics go.
type Telemetry struct {
	// TracerProvider takes spans. It makes none where nothing is configured.
	TracerProvider trace.TracerProvider
	// MeterProvider takes metrics.
	MeterProvider metric.MeterProvider
	// Propagator is the one that OTEL_PROPAGATORS names; not set, that of the W3C.
	Propagator propagation.TextMapPropagator
	// Metrics serves the metrics to Prometheus.
	Metrics http.Handler

	exporter *watchedExporter // nil if nothing is traced
	traces   *sdktrace.TracerProvider
	metrics  *sdkmetric.MeterProvider
}

// Start sets traces and metrics up as the OTEL_ variables say. Spans are exported if
// OTEL_TRACES_EXPORTER or an OTLP endpoint is set, metrics are pushed if
// OTEL_METRICS_EXPORTER is; OTEL_SDK_DISABLED=true turns both off. It connects in the
// background: a collector that is away is logged, and keeps nothing from working. The
// caller ends what was started with Shutdown.
func Start(ctx context.Context, version string, log *slog.Logger) (*Telemetry, error) {
	otel.SetErrorHandler(&faultLog{log: log, message: "telemetry is faulty"})
	res, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName("warren"), semconv.ServiceVersion(version)),
		resource.WithHost(), resource.WithProcessPID(), resource.WithTelemetrySDK(),
		resource.WithFromEnv()) // the last one counts
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	t := &Telemetry{TracerProvider: tracenoop.NewTracerProvider(), Propagator: autoprop.NewTextMapPropagator()}
	if err := t.startTraces(ctx, res, log); err != nil {
		return nil, err
	}
	if err := t.startMetrics(ctx, res); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	return t, nil
}

func isSet(names ...string) bool {
	for _, name := range names {
		if v := os.Getenv(name); v != "" && v != "none" {
			return true
		}
	}
	return false
}

func disabled() bool { return strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") }

func (t *Telemetry) startTraces(ctx context.Context, res *resource.Resource, log *slog.Logger) error {
	wanted := isSet("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") && os.Getenv("OTEL_TRACES_EXPORTER") != "none"
	if !wanted || disabled() {
		return nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return fmt.Errorf("traces: OTEL_TRACES_EXPORTER is %q and OTEL_EXPORTER_OTLP_PROTOCOL %q: %w", os.Getenv("OTEL_TRACES_EXPORTER"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), err)
	}
	t.exporter = &watchedExporter{SpanExporter: exporter, faults: faultLog{log: log, message: "spans cannot be exported, they are dropped and the work goes on"}}
	t.traces = sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithBatcher(t.exporter))
	t.TracerProvider = t.traces
	return nil
}

func (t *Telemetry) startMetrics(ctx context.Context, res *resource.Resource) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	t.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	if disabled() {
		t.MeterProvider = metricnoop.NewMeterProvider()
		return nil
	}
	scraped, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return fmt.Errorf("metrics for Prometheus: %w", err)
	}
	options := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(scraped)}
	if isSet("OTEL_METRICS_EXPORTER") {
		pushed, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return fmt.Errorf("metrics: OTEL_METRICS_EXPORTER is %q and OTEL_EXPORTER_OTLP_PROTOCOL %q: %w", os.Getenv("OTEL_METRICS_EXPORTER"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), err)
		}
		options = append(options, sdkmetric.WithReader(pushed))
	}
	t.metrics = sdkmetric.NewMeterProvider(options...)
	t.MeterProvider = t.metrics
	return nil
}

// Shutdown exports what is left, and ends what Start has started. It blocks for a few
// seconds at most, less if the collector has not answered before, and no longer than
// until ctx ends. What could not be exported is lost, which is no error.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	timeout := flushTimeout
	if t.exporter != nil && t.exporter.faults.isOn() {
		timeout = hopelessFlushTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var errs []error
	if t.traces != nil {
		errs = append(errs, t.traces.Shutdown(ctx))
	}
	if t.metrics != nil {
		errs = append(errs, t.metrics.Shutdown(ctx))
	}
	err := errors.Join(errs...)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// A watchedExporter logs when spans cannot be exported, and when they can be again.
type watchedExporter struct {
	sdktrace.SpanExporter
	faults faultLog
}

// ExportSpans never returns an error: it has been logged.
func (e *watchedExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := e.SpanExporter.ExportSpans(ctx, spans); err != nil {
		e.faults.Handle(err)
		return nil
	}
	e.faults.end("spans are exported again")
	return nil
}

// A faultLog logs a fault when it begins and when it ends. It may be used by several
// goroutines.
type faultLog struct {
	log     *slog.Logger
	message string

	mu    sync.Mutex
	since time.Time // zero: there is none
	count int
}

// Handle logs the first of a row of errors.
func (f *faultLog) Handle(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if f.since.IsZero() {
		f.since = time.Now()
		f.log.Warn(f.message, "error", err) //nolint:sloglint // one of two constants
	}
}

func (f *faultLog) isOn() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.since.IsZero()
}

func (f *faultLog) end(message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.since.IsZero() {
		f.log.Info(message, "failures", f.count, "duration", time.Since(f.since).Round(time.Millisecond)) //nolint:sloglint // a constant
		f.since, f.count = time.Time{}, 0
	}
}
