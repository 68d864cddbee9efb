package telemetry

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// textLog writes lines without the time, which nobody can know.
func textLog(out *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestFaultIsLoggedWhenItBeginsAndWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		f := &faultLog{log: textLog(&out), began: "faulty", ended: "well again", quiet: 5 * time.Minute}
		for range 4 {
			f.Handle(errors.New("refused"))
			<-time.After(time.Minute)
		}
		<-time.After(time.Hour)
		f.Handle(errors.New("refused again"))
		f.stop()
		<-time.After(time.Hour)
		want := `level=WARN msg=faulty error=refused
level=INFO msg="well again" failures=4 duration=3m0s
level=WARN msg=faulty error="refused again"
`
		if got := out.String(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

// TestRefusedMetricsAreNoError stops while a collector refuses metrics.
func TestRefusedMetricsAreNoError(t *testing.T) {
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusForbidden)
	}))
	defer collector.Close()
	clearOTEL(t)
	t.Setenv("OTEL_METRICS_EXPORTER", "otlp")
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	var out bytes.Buffer
	tel, err := Start(t.Context(), "warren", "1.2.3", textLog(&out))
	if err != nil {
		t.Fatal(err)
	}
	counter, err := tel.MeterProvider.Meter("t").Int64Counter("warren.parked")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 1)
	tel.Shutdown(t.Context())
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "403 Forbidden") {
		t.Errorf("the log is %q, want one warning with the answer of the collector", got)
	}
}

// TestHangingTracesDoNotCostTheMetrics stops while the collector takes metrics, but
// never answers to spans.
func TestHangingTracesDoNotCostTheMetrics(t *testing.T) {
	hang, pushed := make(chan struct{}), make(chan struct{}, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/traces" {
			<-hang
			return
		}
		pushed <- struct{}{}
	}))
	defer collector.Close()
	defer close(hang)
	clearOTEL(t)
	t.Setenv("OTEL_METRICS_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "600000") // ms; it is given up long before
	tel, err := Start(t.Context(), "warren", "1.2.3", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.TracerProvider.Tracer("t").Start(t.Context(), "s")
	span.End()
	counter, err := tel.MeterProvider.Meter("t").Int64Counter("warren.parked")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 1)
	start := time.Now()
	tel.Shutdown(t.Context())
	if took := time.Since(start); took > 10*flushTimeout {
		t.Errorf("it took %v, want about %v", took, flushTimeout)
	}
	select {
	case <-pushed:
	default:
		t.Error("no metrics were pushed")
	}
}

// TestSecretsOfTheExporterStaySecret starts with variables that OpenTelemetry cannot
// read, in a process of its own: it would write them to the process's standard error.
func TestSecretsOfTheExporterStaySecret(t *testing.T) {
	if os.Getenv("START_TELEMETRY") != "" {
		tel, err := Start(t.Context(), "warren", "1.2.3", slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if err != nil {
			t.Fatal(err)
		}
		tel.Shutdown(t.Context())
		return
	}
	for _, c := range []struct{ variable, want string }{
		{"OTEL_EXPORTER_OTLP_HEADERS=hunter2", "parse headers"},
		{"OTEL_EXPORTER_OTLP_HEADERS=api-key=hunter2%ZZ", "escape header value"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://user:hunter2@127.0.0.1:1%ZZ", "parse url"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = []string{"START_TELEMETRY=1", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", c.variable}
		out, err := cmd.CombinedOutput()
		if got := string(out); err != nil || strings.Contains(got, "hunter2") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %v and %q, want %q, and no secret", c.variable, err, got, c.want)
		}
	}
}
