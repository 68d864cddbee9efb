package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/jaegertest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// failingTwice is a handler that succeeds at its third attempt.
const failingTwice = "test $WARREN_ATTEMPT -ge 3"

// wantChain checks that each span hangs on the one before it, the first on parent, and
// is called as it should be.
func wantChain(t *testing.T, spans []jaegertest.Span, parent string, names ...string) {
	t.Helper()
	if len(spans) != len(names) {
		t.Fatalf("there are %d spans, want %d: %+v", len(spans), len(names), spans)
	}
	for i, s := range spans {
		kind := map[bool]string{true: "consumer", false: "producer"}[strings.HasPrefix(names[i], "process")]
		if s.Name != names[i] || s.ParentID != parent || s.Service != "warren" || s.Tags["span.kind"] != kind {
			t.Errorf("span %d is %s of %s, a %s, on %q; want %s, a %s, on %q", i, s.Name, s.Service, s.Tags["span.kind"], s.ParentID, names[i], kind, parent)
		}
		parent = s.ID
	}
}

// TestTracesInJaeger follows messages of publishers in Python and Node, through two
// failures to success, and to a dead letter, in Jaeger.
func TestTracesInJaeger(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	j := jaegertest.Start(t)
	env := append(commandQueue(v, "orders", failingTwice), "OTEL_EXPORTER_OTLP_ENDPOINT="+j.OTLP, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"WARREN_QUEUES=orders,hopeless", "WARREN_QUEUE_ORDERS_RETRY_MAX=1s", "WARREN_QUEUE_HOPELESS_PROCESSOR=command", "WARREN_QUEUE_HOPELESS_COMMAND=/bin/false", "WARREN_QUEUE_HOPELESS_MAX_ATTEMPTS=2")
	d := start(t, env...)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return strings.Count(d.log.String(), "msg=consuming") == 2 }, "both queues are consumed")

	jaegertest.PublishFromPython(t, v.URL, "orders", "{}", "python-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	jaegertest.PublishFromPython(t, v.URL, "hopeless", "{}", "python-2", "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	node := j.PublishFromNode(t, v.URL, "orders", "{}", "node-1")
	nodeDead := j.PublishFromNode(t, v.URL, "hopeless", "{}", "node-2")

	success := []string{"process orders", "send warren.wait.orders.1s", "process orders", "send warren.wait.orders.1s", "process orders"}
	dead := []string{"process hopeless", "send warren.wait.hopeless.1s", "process hopeless", "send hopeless.dead"}

	spans := j.Await(t, 20*time.Second, "0af7651916cd43dd8448eb211c80319c", len(success))
	wantChain(t, spans, "b7ad6b7169203331", success...)
	for i, want := range map[int]string{0: "retry", 2: "retry", 4: "ack"} {
		tags := spans[i].Tags
		if tags["warren.verdict"] != want || tags["messaging.message.id"] != "python-1" || tags["messaging.system"] != "rabbitmq" || (tags["error"] == "true") != (want == "retry") {
			t.Errorf("attempt %s has the tags %v, want the verdict %s", tags["warren.attempt"], tags, want)
		}
	}
	wantChain(t, j.Await(t, 20*time.Second, "1af7651916cd43dd8448eb211c80319c", len(dead)), "b7ad6b7169203331", dead...)

	// Node's own two spans come first: the program's, and the publish.
	for trace, names := range map[string][]string{node: success, nodeDead: dead} {
		spans := j.Await(t, 20*time.Second, trace, 2+len(names))
		if spans[0].Name != "place order" || spans[0].Service != "node-publisher" || spans[1].ParentID != spans[0].ID {
			t.Errorf("the trace begins with %+v", spans[:2])
		}
		wantChain(t, spans[2:], spans[1].ID, names...)
	}

	// What is in the log leads to the trace.
	if want := "trace_id=" + node; !strings.Contains(d.log.String(), want) {
		t.Errorf("the log lacks %s", want)
	}
}

// TestShutdownExportsTheLastSpans stops the daemon right after a message, long before
// spans would be exported by themselves.
func TestShutdownExportsTheLastSpans(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	j := jaegertest.Start(t)
	d := start(t, append(commandQueue(v, "orders", "true"), "OTEL_EXPORTER_OTLP_ENDPOINT="+j.OTLPGRPC, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_BSP_SCHEDULE_DELAY=600000")...)
	jaegertest.PublishFromPython(t, v.URL, "orders", "{}", "m-1", "00-2af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "orders")+v.Unacked(t, "orders") == 0 }, "the message is done")
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
	wantChain(t, j.Await(t, 5*time.Second, "2af7651916cd43dd8448eb211c80319c", 1), "b7ad6b7169203331", "process orders")
}

// TestCollectorThatDoesNotTakeSpans works 5,000 traced messages with a collector that is
// down, refuses or hangs: none waits for it, and the log says it once.
func TestCollectorThatDoesNotTakeSpans(t *testing.T) {
	t.Parallel()
	const n = 5000
	hang := make(chan struct{})
	collector := func(handler http.HandlerFunc) func(t *testing.T) string {
		return func(t *testing.T) string {
			s := httptest.NewServer(handler)
			t.Cleanup(s.Close)
			return s.URL
		}
	}
	defer close(hang)
	for name, endpoint := range map[string]func(t *testing.T) string{
		"down": func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			return "http://" + l.Addr().String()
		},
		"refuses": collector(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }),
		"hangs": collector(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			d := start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=q", "WARREN_QUEUE_Q_PROCESSOR=log", "WARREN_QUEUE_Q_PREFETCH=100", "WARREN_LOG_LEVEL=info",
				"OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint(t), "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_EXPORTER_OTLP_TIMEOUT=1000", "OTEL_BSP_EXPORT_TIMEOUT=2000")
			v.PublishN(t, "q", n, withID("{}"))
			rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "q")+v.Unacked(t, "q") == 0 }, "all is done")
			rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Contains(d.log.String(), "spans cannot be exported") }, "the log says so")
			peak := peakResident(t, d.Process.Pid)
			took := d.signal(t, syscall.SIGTERM)
			wantExit(t, d, 0)
			if said := strings.Count(d.log.String(), "spans cannot be exported"); said != 1 || took > rabbittest.Soon || peak > 80<<20 {
				t.Errorf("said %d times, ended after %v, %d MiB resident at most; want once, soon and 80 MiB", said, took, peak>>20)
			}
		})
	}
}

// TestARedeliveryIsASpanOfItsOwn stops a daemon in the middle of a message, and kills the
// next one: each attempt that ended is a span, and what began again says so, in Jaeger and
// in the state. A process that is killed takes its last span with it.
func TestARedeliveryIsASpanOfItsOwn(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	j := jaegertest.Start(t)
	dir := t.TempDir()
	env := apiQueue(v, "orders", "echo $WARREN_REDELIVERED >>"+dir+"/told; until test -e "+dir+"/done; do sleep 0.1; done",
		"OTEL_EXPORTER_OTLP_ENDPOINT="+j.OTLP, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "WARREN_SHUTDOWN_TIMEOUT=1s",
		"WARREN_DATABASE_URL=sqlite:"+dir+"/warren.db", "WARREN_MIGRATE=true")
	begun := func(n int) func() bool { return func() bool { return len(lines(t, dir+"/told")) == n } }

	d := start(t, env...)
	jaegertest.PublishFromPython(t, v.URL, "orders", "{}", "m-1", "00-3af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	rabbittest.Eventually(t, 20*time.Second, begun(1), "the first begins")
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 2)
	d = start(t, env...)
	rabbittest.Eventually(t, 20*time.Second, begun(2), "the second begins")
	d.signal(t, syscall.SIGKILL)
	if err := os.WriteFile(dir+"/done", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d = start(t, env...)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "orders")+v.Unacked(t, "orders") == 0 }, "the third is done")

	spans := j.Await(t, 20*time.Second, "3af7651916cd43dd8448eb211c80319c", 2)
	for i, want := range []struct{ verdict, redelivered string }{{"return", ""}, {"ack", "true"}} {
		s := spans[i]
		if s.ParentID != "b7ad6b7169203331" || s.Tags["warren.verdict"] != want.verdict || s.Tags["warren.redelivered"] != want.redelivered || slices.Contains(s.Events, "redelivered") != (want.redelivered != "") {
			t.Errorf("span %d is %+v, want that of an attempt with %+v", i, s, want)
		}
	}
	if got := lines(t, dir+"/told"); !slices.Equal(got, []string{"false", "true", "true"}) {
		t.Errorf("the handler was told %q", got)
	}
	if got, want := newCheckedAPI(t, d).await("m-1", "succeeded"), `"attempt":1,"redelivered":true`; !strings.Contains(got, want) {
		t.Errorf("got the state %s, want %s in it", got, want)
	}
}
