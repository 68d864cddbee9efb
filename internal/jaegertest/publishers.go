package jaegertest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/nodetest"
)

// PublishFromPython publishes with pika and a traceparent set by hand, and returns when the
// broker has confirmed the message. A queue that is not there fails the test.
func PublishFromPython(t testing.TB, amqpURL, queue, body, messageID, traceparent string) {
	t.Helper()
	const python = "/usr/bin/python3" // Debian's, which has its packages
	if out, err := exec.Command(python, "-c", "import pika").CombinedOutput(); err != nil {
		t.Fatalf("Python's pika is missing; apt-get install python3-pika provides it: %v\n%s", err, out)
	}
	output(t, []string{"AMQP_URL=" + amqpURL}, python, filepath.Join(publishers(t), "publish.py"), queue, body, messageID, traceparent)
}

// PublishFromNode publishes with amqplib and its instrumentation by OpenTelemetry, and
// returns the id of the trace when the broker has confirmed the message and Jaeger has the
// two spans: the program's own, and below it the publish. A queue that is not there fails
// the test. The first time on a machine it installs packages with npm.
func (j *Jaeger) PublishFromNode(t testing.TB, amqpURL, queue, body, messageID string) string {
	t.Helper()
	script := filepath.Join(nodetest.Install(t, publishers(t)), "publish.js")
	return strings.TrimSpace(output(t, []string{"AMQP_URL=" + amqpURL, "OTLP=" + j.OTLP, "PATH=" + os.Getenv("PATH")}, "node", script, queue, body, messageID))
}

func publishers(t testing.TB) string {
	return filepath.Join(root(t), "internal", "jaegertest", "publishers")
}

// output runs a program to its end and returns what it printed.
func output(t testing.TB, env []string, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", program, args, err, out, errs.String())
	}
	return string(out)
}
