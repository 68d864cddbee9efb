package jaegertest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	script := filepath.Join(nodeModules(t), "publish.js")
	return strings.TrimSpace(output(t, []string{"AMQP_URL=" + amqpURL, "OTLP=" + j.OTLP, "PATH=" + os.Getenv("PATH")}, "node", script, queue, body, messageID))
}

func publishers(t testing.TB) string {
	return filepath.Join(root(t), "internal", "jaegertest", "publishers")
}

// nodeModules installs what publish.js needs, once for each version of it, into a folder
// of the user's cache, and returns that.
func nodeModules(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatalf("there is no npm; apt-get install nodejs npm provides it: %v", err)
	}
	hash := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json", "publish.js"} {
		content, err := os.ReadFile(filepath.Join(publishers(t), name))
		if err != nil {
			t.Fatal(err)
		}
		hash.Write(content)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "warren")
	dir := filepath.Join(cache, fmt.Sprintf("publishers-%.6x", hash.Sum(nil)))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	// Into a folder of its own first: neither an interrupted installation must count, nor
	// one that another test process is at.
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	fresh, err := os.MkdirTemp(cache, "publishers-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(fresh) }()
	if err := os.CopyFS(fresh, os.DirFS(publishers(t))); err != nil {
		t.Fatal(err)
	}
	output(t, os.Environ(), "npm", "--prefix", fresh, "ci", "--no-audit", "--no-fund", "--loglevel=error")
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, fs.ErrExist) {
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
