package jaegertest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// PublishFromPython publishes with pika and a traceparent set by hand.
func PublishFromPython(t testing.TB, amqpURL, queue, body, messageID, traceparent string) {
	t.Helper()
	const python = "/usr/bin/python3" // Debian's, which has its packages
	if out, err := exec.Command(python, "-c", "import pika").CombinedOutput(); err != nil {
		t.Fatalf("Python's pika is missing; apt-get install python3-pika provides it: %v\n%s", err, out)
	}
	output(t, []string{"AMQP_URL=" + amqpURL}, python, filepath.Join(publishers(t), "publish.py"), queue, body, messageID, traceparent)
}

// PublishFromNode publishes with amqplib and its instrumentation by OpenTelemetry, and
// returns the id of the trace, whose spans it has exported to Jaeger.
func (j *Jaeger) PublishFromNode(t testing.TB, amqpURL, queue, body, messageID string) string {
	t.Helper()
	script := filepath.Join(nodeModules(t), "publish.js")
	return strings.TrimSpace(output(t, []string{"AMQP_URL=" + amqpURL, "OTLP=" + j.OTLP, "PATH=" + os.Getenv("PATH")}, "node", script, queue, body, messageID))
}

func publishers(t testing.TB) string {
	return filepath.Join(root(t), "internal", "jaegertest", "publishers")
}

// nodeModules installs what publish.js needs, once for each lock file, into a folder of
// the user's cache, and returns that.
func nodeModules(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatalf("there is no npm; apt-get install nodejs npm provides it: %v", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	files := []string{"package.json", "package-lock.json", "publish.js"}
	contents := make([][]byte, len(files))
	for i, name := range files {
		if contents[i], err = os.ReadFile(filepath.Join(publishers(t), name)); err != nil {
			t.Fatal(err)
		}
		hash.Write(contents[i])
	}
	dir := filepath.Join(cache, "warren", fmt.Sprintf("publishers-%.6x", hash.Sum(nil)))
	done := filepath.Join(dir, "installed")
	if _, err := os.Stat(done); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, name := range files {
		if err := os.WriteFile(filepath.Join(dir, name), contents[i], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	output(t, os.Environ(), "npm", "--prefix", dir, "ci", "--no-audit", "--no-fund", "--loglevel=error")
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
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
