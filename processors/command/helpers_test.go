package command_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/command"
	"github.com/warrenmq/warren/processors/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newProcessor makes the processor of cfg, in mode spawn.
func newProcessor(t testing.TB, cfg command.Config) consumer.Processor {
	t.Helper()
	cfg.Mode = "spawn"
	p, err := cfg.Open(registry.Queue{Name: "commands", Concurrency: 8}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("New(%+v): %v", cfg, err)
	}
	return p
}

// shell makes the processor that runs a shell script.
func shell(t testing.TB, lines ...string) consumer.Processor {
	t.Helper()
	return newProcessor(t, command.Config{Command: writeScript(t, "#!/bin/sh", lines...)})
}

// python makes the processor that runs a Python script.
func python(t testing.TB, lines ...string) consumer.Processor {
	t.Helper()
	return newProcessor(t, command.Config{Command: pythonScript(t, lines...)})
}

func pythonScript(t testing.TB, lines ...string) string {
	t.Helper()
	if _, err := exec.LookPath("/usr/bin/python3"); err != nil {
		t.Fatalf("%v; apt-get install python3 provides it", err)
	}
	return writeScript(t, "#!/usr/bin/python3", lines...)
}

func writeScript(t testing.TB, first string, lines ...string) string {
	t.Helper()
	return writeProgram(t, first+"\n"+strings.Join(lines, "\n")+"\n")
}

// writeProgram writes a file that can be run. No process may be started meanwhile by a test
// beside this one: until it has become another program, it would hold the file open
// for writing, and such a file cannot be run.
func writeProgram(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "handler")
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// ask runs p on a delivery that wants a result, which it returns; p must succeed.
func ask(t *testing.T, p consumer.Processor, d consumer.Delivery) string {
	t.Helper()
	d.ReplyTo = "answers"
	result, err := consumertest.Run(t.Context(), p, d)
	if err != nil {
		t.Fatalf("the command failed: %v", err)
	}
	return string(result.Body)
}

// A stderrLog records what a processor logs. With onLine it is told each line of
// standard error as soon as it is logged.
type stderrLog struct {
	onLine   func(line string)
	mu       sync.Mutex
	lines    []string
	warnings []slog.Record
}

func (l *stderrLog) logger() *slog.Logger { return slog.New(l) }

func (l *stderrLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *stderrLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *stderrLog) WithGroup(string) slog.Handler            { return l }

func (l *stderrLog) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Level > slog.LevelInfo {
		l.warnings = append(l.warnings, r)
		return nil
	}
	line := attribute(r, "line").String()
	l.lines = append(l.lines, line)
	if l.onLine != nil {
		l.onLine(line)
	}
	return nil
}

// attribute returns the value that r has under the key.
func attribute(r slog.Record, key string) slog.Value {
	var value slog.Value
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			value = a.Value
		}
		return true
	})
	return value
}

// runUntil runs p until it writes a line to standard error that begins with mark;
// then its context ends because of cause. It returns the rest of that line, how long
// p took from then on, and its error.
func runUntil(t *testing.T, p consumer.Processor, mark string, cause error) (rest string, took time.Duration, err error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	overdue := time.AfterFunc(limit, func() { cancel(context.DeadlineExceeded) })
	defer overdue.Stop()
	var ended time.Time
	log := &stderrLog{onLine: func(line string) {
		if after, ok := strings.CutPrefix(line, mark); ok {
			rest, ended = strings.TrimSpace(after), time.Now()
			cancel(cause)
		}
	}}
	_, err = consumertest.RunLog(ctx, p, consumer.Delivery{Queue: "commands"}, log.logger())
	if ended.IsZero() {
		t.Fatalf("the command never wrote a line that begins with %q, but %q, and returned %v", mark, log.lines, err)
	}
	return rest, time.Since(ended), err
}

// isRunning tells whether there is such a process, and more of it than a zombie.
func isRunning(t *testing.T, pid string) bool {
	t.Helper()
	if n, err := strconv.Atoi(pid); err != nil || n < 2 {
		t.Fatalf("%q is no process id", pid)
	}
	status, err := os.ReadFile("/proc/" + pid + "/status")
	return err == nil && !strings.Contains(string(status), "\nState:\tZ")
}

// waitGone waits until none of the processes is running.
func waitGone(t *testing.T, pids ...string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	overdue := time.After(limit)
	for _, pid := range pids {
		for isRunning(t, pid) {
			select {
			case <-tick.C:
			case <-overdue:
				t.Fatalf("process %s is still running a minute after the command has ended, want it killed", pid)
			}
		}
	}
}
