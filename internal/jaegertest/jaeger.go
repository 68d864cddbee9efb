// Package jaegertest is a real Jaeger for tests, and publishers in other languages
// that trace what they do.
//
//	j := jaegertest.Start(t)
//	cmd.Env = append(cmd.Env, "OTEL_EXPORTER_OTLP_ENDPOINT="+j.OTLP)
//	...
//	spans := j.Await(t, 10*time.Second, traceID, 5)
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
	"strings"
	"syscall"
	"testing"
	"time"
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
    traces: {receivers: [otlp], exporters: [%s]}
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
  nop: {}
`

// Start starts a Jaeger on free ports and ends it with the test. The first time on a
// machine it builds it, which takes some minutes.
func Start(t testing.TB) *Jaeger {
	t.Helper()
	return start(t, "jaeger_storage_exporter")
}

// StartCollector is Start for what is measured: a collector that takes spans and, like
// one that hands them on to another machine, keeps none.
func StartCollector(t testing.TB) *Jaeger {
	t.Helper()
	return start(t, "nop")
}

func start(t testing.TB, exporter string) *Jaeger {
	t.Helper()
	build := exec.Command(filepath.Join(root(t), ".ci", "jaeger", "build"))
	build.Stderr = os.Stderr // that it takes long
	program, err := build.Output()
	if err != nil {
		t.Fatalf("build Jaeger, as .ci/jaeger/build does: %v", err)
	}
	addrs := freeAddrs(t, 4)
	path := filepath.Join(t.TempDir(), "jaeger.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, config, exporter, addrs[0], addrs[1], addrs[2], addrs[3]), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command(strings.TrimSpace(string(program)), "--config", "file:"+path))
	j := &Jaeger{query: "http://" + addrs[0], OTLPGRPC: "http://" + addrs[2], OTLP: "http://" + addrs[3]}
	await(t, 30*time.Second, "Jaeger answers", func() bool {
		for _, addr := range addrs {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return false
			}
			_ = conn.Close()
		}
		return true
	})
	return j
}

// root is the folder of the project.
func root(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("this package does not know where it is; build it without -trimpath")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

func freeAddrs(t testing.TB, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // all at the end: none is given twice
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// run runs the program until the test ends, or its process.
func run(t testing.TB, cmd *exec.Cmd) {
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
}

func await(t testing.TB, timeout time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !done(); <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", timeout, what)
		}
	}
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

// Await waits until the trace has n spans, and returns them, the oldest first.
func (j *Jaeger) Await(t testing.TB, timeout time.Duration, traceID string, n int) []Span {
	t.Helper()
	var spans []Span
	await(t, timeout, fmt.Sprintf("trace %s has %d spans", traceID, n), func() bool {
		spans = j.trace(t, traceID)
		return len(spans) >= n
	})
	if len(spans) != n {
		t.Errorf("trace %s has %d spans, want %d: %+v", traceID, len(spans), n, spans)
	}
	return spans
}

// trace reads a trace over Jaeger's query API.
func (j *Jaeger) trace(t testing.TB, traceID string) []Span {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
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
