package jaegertest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// holdVariable makes the test program start a Jaeger, print its address, and wait to be
// killed.
const holdVariable = "JAEGERTEST_HOLD"

func TestMain(m *testing.M) { rabbittest.Main(m) }

// export exports a failed span with an event, and one below it, as the daemon does with
// these variables, and returns both. What cannot be exported fails the test.
func export(t *testing.T, protocol, endpoint string) (parent, child trace.SpanContext) {
	t.Helper()
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
	exporter, err := autoexport.NewSpanExporter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(ended),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "shop"))))
	tracer := provider.Tracer("test")
	ctx, order := tracer.Start(t.Context(), "process orders", trace.WithSpanKind(trace.SpanKindConsumer))
	_, send := tracer.Start(ctx, "send replies", trace.WithSpanKind(trace.SpanKindProducer))
	send.SetAttributes(attribute.Int("warren.attempt", 2))
	send.End()
	order.AddEvent("rollback")
	order.SetStatus(codes.Error, "no such customer")
	order.End()
	if err := errors.Join(exporter.ExportSpans(t.Context(), ended.Ended()), exporter.Shutdown(t.Context())); err != nil {
		t.Fatalf("export over %s to %s: %v", protocol, endpoint, err)
	}
	return order.SpanContext(), send.SpanContext()
}

func TestSpansAreReadBack(t *testing.T) {
	// Two at once, each with ports and traces of its own.
	overHTTP, overGRPC := Start(t), Start(t)
	for _, c := range []struct {
		protocol, endpoint string
		to, other          *Jaeger
	}{
		{"http/protobuf", overHTTP.OTLP, overHTTP, overGRPC},
		{"grpc", overGRPC.OTLPGRPC, overGRPC, overHTTP},
	} {
		t.Run(c.protocol, func(t *testing.T) {
			started := time.Now().Truncate(time.Microsecond)
			parent, child := export(t, c.protocol, c.endpoint)
			id := parent.TraceID().String()
			spans := c.to.Await(t, 10*time.Second, id, 2)
			for i, want := range []Span{
				{ID: parent.SpanID().String(), Service: "shop", Name: "process orders"},
				{ID: child.SpanID().String(), ParentID: parent.SpanID().String(), Service: "shop", Name: "send replies"},
			} {
				got := spans[i]
				if got.Start.Before(started) || got.Start.After(time.Now()) {
					t.Errorf("start of %s: got %v, want one since %v", want.Name, got.Start, started)
				}
				if got.ID != want.ID || got.ParentID != want.ParentID || got.Service != want.Service || got.Name != want.Name {
					t.Errorf("span %d: got %+v, want %+v", i, got, want)
				}
			}
			for i, want := range []map[string]string{
				{"span.kind": "consumer", "error": "true", "otel.status_description": "no such customer"},
				{"span.kind": "producer", "warren.attempt": "2", "error": ""},
			} {
				for key, value := range want {
					if got := spans[i].Tags[key]; got != value {
						t.Errorf("tag %s of %s: got %q, want %q", key, spans[i].Name, got, value)
					}
				}
			}
			if got := strings.Join(spans[0].Events, " "); got != "rollback" {
				t.Errorf("events of %s: got %q, want rollback", spans[0].Name, got)
			}
			c.other.Await(t, 0, id, 0)
		})
	}
}

func TestAJaegerEndsWithItsTest(t *testing.T) {
	var addr string
	t.Run("test", func(t *testing.T) { addr = strings.TrimPrefix(Start(t).OTLP, "http://") })
	if listens(addr) {
		t.Errorf("%s after the test: got an answer, want none", addr)
	}
}

func TestNoJaegerOutlivesAKilledTestProcess(t *testing.T) {
	if os.Getenv(holdVariable) != "" {
		fmt.Println(Start(t).OTLP)
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), holdVariable+"=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	addr, found := strings.CutPrefix(strings.TrimSpace(line), "http://")
	up := found && listens(addr)
	_ = cmd.Process.Kill()
	if err := cmd.Wait(); err == nil {
		t.Error("the test process ended by itself, want it killed")
	}
	if !up {
		t.Fatalf("Jaeger of the other test process: got %q and error %v, want where it listens", line, err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return !listens(addr) }, "nothing listens on "+addr)
}

func listens(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
