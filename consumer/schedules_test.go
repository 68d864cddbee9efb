package consumer

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/warrenmq/warren/consumer/schedule"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// A firing is worked as any message is, and can be seen in the trace and the metrics.
func TestAFiringIsWorkedAsAnyMessage(t *testing.T) {
	v := rabbittest.NewVhost(t)
	recorder := tracetest.NewSpanRecorder()
	reader := metric.NewManualReader()
	deliveries := make(chan Delivery, 100)
	r := runConfig(t, Config{
		Nodes: []string{v.URL},
		Telemetry: Telemetry{
			TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)),
			MeterProvider:  metric.NewMeterProvider(metric.WithReader(reader)),
		},
		Queues: []Queue{{Name: "reports", RetryMax: time.Second, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
			deliveries <- d
			return nil
		})}},
		Schedules: []schedule.Schedule{{
			Name: "tick", Every: time.Second, Queue: "reports", Body: []byte(`{"report": "daily"}`),
			Type: "report", Headers: map[string]any{"tenant": "a", "x-warren-schedule": "forged"},
		}},
	}, nil)
	var d Delivery
	for range 3 {
		d = <-deliveries
	}
	late := time.Since(time.UnixMilli(d.Headers["x-warren-scheduled-for"].(int64)))
	if late < 0 || late > rabbittest.Soon {
		t.Errorf("worked %v after its planned time", late)
	}
	equal(t, []any{string(d.Body), d.Type, d.ContentType, d.AppID, d.Headers["tenant"], d.Headers["x-warren-schedule"], d.Attempt},
		[]any{`{"report": "daily"}`, "report", "application/json", "warren", "a", "tick", 1})

	rabbittest.Eventually(t, 5*time.Second, func() bool {
		return strings.Contains(ended(recorder), "process reports") && strings.Contains(ended(recorder), "send reports")
	}, "a firing and an attempt have ended")
	first := func(name string) sdktrace.ReadOnlySpan {
		i := slices.IndexFunc(recorder.Ended(), func(s sdktrace.ReadOnlySpan) bool { return s.Name() == name })
		return recorder.Ended()[i]
	}
	fired := first("send reports")
	equal(t, attr(fired, "warren.purpose"), "schedule")
	equal(t, attr(fired, "server.address"), "127.0.0.1")
	equal(t, first("process reports").Parent().SpanID(), fired.SpanContext().SpanID())
	rabbittest.Eventually(t, 5*time.Second, func() bool { return collected(t, reader)["warren.schedule.fired"] >= 3 }, "the third is confirmed, too")
	status := r.Status().Schedules[0]
	if !status.Leading || status.Fault != "" || time.Until(status.Next) > time.Second || time.Since(status.Last) > rabbittest.Soon {
		t.Errorf("the status is %+v", status)
	}
	equal(t, r.Healthy(), nil)

	got := collected(t, reader)
	if got["warren.schedule.leading"] != 1 || got["warren.schedule.fired"] < 3 || (got["warren.schedule.misfires"] != 0) != contains(r.log, "have passed without a firing") || // on a machine that stood still
		got["warren.schedule.lag"] > int64(rabbittest.Soon.Seconds()) || got["warren.schedule.ahead"] != 0 || time.Since(time.Unix(got["warren.schedule.last"], 0)) > rabbittest.Soon {
		t.Errorf("the metrics are %v", got)
	}
	if !contains(r.log, "msg=schedule schedule=tick queue=reports rule=\"every 1s\" next=") {
		t.Error("the log does not announce the schedule")
	}
}

// collected is the first point of each metric of whole numbers.
func collected(t *testing.T, reader metric.Reader) map[string]int64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]int64)
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch points := m.Data.(type) {
			case metricdata.Gauge[int64]:
				out[m.Name] = points.DataPoints[0].Value
			case metricdata.Sum[int64]:
				out[m.Name] = points.DataPoints[0].Value
			}
		}
	}
	return out
}

// What the broker refuses in a lasting way ends the start.
func TestScheduleThatIsNotPermitted(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	url := v.AddUser(t, "unscheduled", "pw", "^(other|other[.]dead|warren[.]wait[.].*)$", ".*", ".*")
	c, err := New(Config{Nodes: []string{url}, Queues: []Queue{{Name: "other", Processor: noop, RetryMax: time.Second}},
		Schedules: []schedule.Schedule{{Name: "tick", Every: time.Second, Queue: "other"}}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got := errorText(c.Run(t.Context())); !strings.Contains(got, "warren.schedule.tick") || !strings.Contains(got, "set_permissions") {
		t.Errorf("Run returned %q, want the queue and the remedy", got)
	}
}
