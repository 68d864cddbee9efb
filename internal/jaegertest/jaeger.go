// Package jaegertest is a real Jaeger for tests, and publishers in other languages
// that trace what they do.
//
//	j := jaegertest.Start(t)
//	cmd.Env = append(cmd.Env, "OTEL_EXPORTER_OTLP_ENDPOINT="+j.OTLP, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
//	...
//	spans := j.Await(t, 10*time.Second, traceID, 5)
//
// The package is for Linux.
package jaegertest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/freeport"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// A Jaeger keeps traces in its memory until the test ends.
type Jaeger struct {
	OTLP     string // URL to export to over HTTP
	OTLPGRPC string // URL to export to over gRPC
	query    string
}

const config = `
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {receivers: [otlp], exporters: [jaeger_storage_exporter]}
  telemetry:
    metrics: {level: none}
    logs: {level: error}
extensions:
  jaeger_query:
    storage: {traces: memory}
    http: {endpoint: "%s"}
    grpc: {endpoint: "%s"}
  jaeger_storage:
    backends:
      memory: {memory: {max_traces: 100000}}
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "%s"}
      http: {endpoint: "%s"}
exporters:
  jaeger_storage_exporter: {trace_storage: memory}
`

// Start starts a Jaeger on free ports of the loopback interface, and returns when it takes
// spans. It ends with the test, and with the test process, however that ends. A test may
// start several. The first time on a machine it is built, which takes some minutes.
func Start(t testing.TB) *Jaeger {
	t.Helper()
	build := exec.Command(filepath.Join(root(t), ".ci", "jaeger", "build"))
	build.Stderr = os.Stderr // that it takes long
	program, err := build.Output()
	if err != nil {
		t.Fatalf("there is no Jaeger; .ci/jaeger/build provides it: %v", err)
	}
	addrs := freeAddrs(t, 4)
	ended := run(t, exec.Command(strings.TrimSpace(string(program)),
		"--config", "yaml:"+fmt.Sprintf(config, addrs[0], addrs[1], addrs[2], addrs[3])))
	rabbittest.Eventually(t, 30*time.Second, func() bool {
		select {
		case <-ended:
			t.Fatalf("Jaeger ended while it started, want it to listen on %v", addrs)
		default:
		}
		for _, addr := range addrs {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return false
			}
			_ = conn.Close()
		}
		return true
	}, "Jaeger answers")
	return &Jaeger{query: "http://" + addrs[0], OTLPGRPC: "http://" + addrs[2], OTLP: "http://" + addrs[3]}
}

// root is the folder of the project.
func root(t testing.TB) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	if !filepath.IsAbs(file) {
		t.Fatalf("the folder of this package: got %q, want a path; build it without -trimpath", file)
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

func freeAddrs(t testing.TB, n int) []string {
	t.Helper()
	var addrs []string
	for len(addrs) < n {
		port, err := freeport.Port()
		if err != nil {
			t.Fatal(err)
		}
		if addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port)); !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// run runs the program until the test ends, or its process. The channel is closed when
// the program has ended.
func run(t testing.TB, cmd *exec.Cmd) <-chan struct{} {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	started, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		// The signal comes when the thread ends that has started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	// What is measured beside it shall not compete with it.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, 19)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("Jaeger said: %.2000s", out.String())
		}
	})
	return ended
}

// A Span is one span as Jaeger has it.
type Span struct {
	ID       string
	ParentID string // empty: none
	Service  string
	Name     string
	Tags     map[string]string // span.kind, error and the attributes
	Events   []string
	Start    time.Time
}

// Await waits until the trace has n spans, and returns them, the oldest first. Fewer after
// the timeout, or three minutes if that is longer, or more at any time, fail the test. A
// timeout of zero does not wait.
func (j *Jaeger) Await(t testing.TB, timeout time.Duration, traceID string, n int) []Span {
	t.Helper()
	if timeout > 0 {
		timeout = max(timeout, 3*time.Minute)
	}
	deadline := time.Now().Add(timeout)
	spans := j.trace(t, traceID)
	for len(spans) < n && time.Now().Before(deadline) {
		<-time.After(50 * time.Millisecond)
		spans = j.trace(t, traceID)
	}
	if len(spans) != n {
		t.Fatalf("spans of trace %s within %v: got %d, want %d: %+v", traceID, timeout, len(spans), n, spans)
	}
	return spans
}

// trace reads a trace over Jaeger's query API.
func (j *Jaeger) trace(t testing.TB, traceID string) []Span {
	t.Helper()
	client := http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(j.query + "/api/traces/" + traceID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Data []struct {
			Spans []struct {
				SpanID        string
				OperationName string
				ProcessID     string
				StartTime     int64 // microseconds
				References    []struct{ RefType, SpanID string }
				Tags          []struct {
					Key   string
					Value any
				}
				Logs []struct {
					Fields []struct {
						Key   string
						Value any
					}
				}
			}
			Processes map[string]struct{ ServiceName string }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("Jaeger answers %s: %v", body, err)
	}
	var spans []Span
	for _, data := range answer.Data {
		for _, s := range data.Spans {
			span := Span{ID: s.SpanID, Service: data.Processes[s.ProcessID].ServiceName, Name: s.OperationName, Tags: map[string]string{}, Start: time.UnixMicro(s.StartTime)}
			for _, r := range s.References {
				if r.RefType == "CHILD_OF" {
					span.ParentID = r.SpanID
				}
			}
			for _, tag := range s.Tags {
				span.Tags[tag.Key] = fmt.Sprint(tag.Value)
			}
			for _, log := range s.Logs {
				for _, f := range log.Fields {
					if f.Key == "event" {
						span.Events = append(span.Events, fmt.Sprint(f.Value))
					}
				}
			}
			spans = append(spans, span)
		}
	}
	slices.SortFunc(spans, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return spans
}
