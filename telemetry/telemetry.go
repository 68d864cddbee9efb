package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
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
	// quietTimeout is how long no error has to come until the fault is taken to be over,
	// where no success can be seen: some intervals of the export of metrics.
	quietTimeout = 5 * time.Minute
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

	faults   *faultLog        // of all that has no watch of its own
	exporter *watchedExporter // nil if nothing is traced
	traces   *sdktrace.TracerProvider
	metrics  *sdkmetric.MeterProvider
}

// Start sets traces and metrics up as the OTEL_ variables say. Spans are exported if
// OTEL_TRACES_EXPORTER or an OTLP endpoint is set, metrics are pushed if
// OTEL_METRICS_EXPORTER is; OTEL_SDK_DISABLED=true turns both off. It connects in the
// background: a collector that is away is logged, and keeps nothing from working. The
// caller ends what was started with Shutdown.
func Start(ctx context.Context, name, version string, log *slog.Logger) (*Telemetry, error) {
	faults := &faultLog{log: log, began: "telemetry is faulty, the work goes on", ended: "telemetry works again", quiet: quietTimeout}
	otel.SetErrorHandler(faults)
	otel.SetLogger(logr.New(sdkLog{log}))
	res, err := resource.New(ctx,
		resource.WithService(), // an instance id; not the name
		resource.WithAttributes(semconv.ServiceName(name), semconv.ServiceVersion(version)),
		resource.WithHost(), resource.WithProcessPID(), resource.WithTelemetrySDK(),
		resource.WithFromEnv()) // the last one counts
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	t := &Telemetry{faults: faults, TracerProvider: tracenoop.NewTracerProvider(), Propagator: autoprop.NewTextMapPropagator()}
	if err := t.startTraces(ctx, res, log); err != nil {
		return nil, err
	}
	if err := t.startMetrics(ctx, res); err != nil {
		t.Shutdown(ctx)
		return nil, err
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
	t.exporter = &watchedExporter{SpanExporter: exporter, faults: faultLog{log: log, began: "spans cannot be exported, they are dropped and the work goes on", ended: "spans are exported again"}}
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
// until ctx ends. What cannot be exported is lost and logged: work that was done well
// does not fail for it.
func (t *Telemetry) Shutdown(ctx context.Context) {
	timeout := flushTimeout
	if t.exporter != nil && t.exporter.faults.isOn() {
		timeout = hopelessFlushTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var ended sync.WaitGroup // side by side: a hanging collector of the one must not cost the other
	end := func(shutdown func(context.Context) error) {
		ended.Go(func() {
			if err := shutdown(ctx); err != nil {
				t.faults.Handle(err)
			}
		})
	}
	if t.traces != nil {
		end(t.traces.Shutdown)
	}
	if t.metrics != nil {
		end(t.metrics.Shutdown)
	}
	ended.Wait()
	t.faults.stop()
}

// A watchedExporter exports spans with clean values. It logs when they cannot be exported,
// and when they can be again.
type watchedExporter struct {
	sdktrace.SpanExporter
	faults faultLog
}

// ExportSpans never returns an error: it has been logged.
func (e *watchedExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	cleaned := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, s := range spans {
		cleaned[i] = cleanSpan{s}
	}
	if err := e.SpanExporter.ExportSpans(ctx, cleaned); err != nil {
		e.faults.Handle(err)
		return nil
	}
	e.faults.end()
	return nil
}
