package command_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/command"
)

const (
	grace = 500 * time.Millisecond // from SIGTERM to SIGKILL
	// limit is what nothing here takes on the slowest machine. What is not ended sleeps
	// for ten times as long.
	limit = time.Minute
	// patience is what replaces grace where a program must have its time on a busy machine.
	// It passes to its end.
	patience = 15 * time.Second
)

func TestTimeoutEndsTheWholeTree(t *testing.T) {
	p := shell(t,
		"sleep 600 &",
		"child=$!",
		`sh -c 'sleep 600 & echo "running '$$' '$child' $$ $!" >&2; wait' &`,
		"wait")
	pids, took, err := runUntil(t, p, "running", consumer.ErrTimeout)
	if !errors.Is(err, consumer.ErrTimeout) || consumertest.Verdict(err) != "retry" {
		t.Errorf("error %v, verdict %s; want the timeout and retry", err, consumertest.Verdict(err))
	}
	if took < grace || took > grace+limit {
		t.Errorf("it took %v after the timeout, want %v and little more", took, grace)
	}
	if n := len(strings.Fields(pids)); n != 4 {
		t.Fatalf("the command reported %d processes, want 4", n)
	}
	waitGone(t, strings.Fields(pids)...)
}

func TestDeadlineOfTheContextCounts(t *testing.T) {
	t.Parallel()
	p := shell(t, "sleep 600")
	command.SetKillAfter(p, patience) // a busy machine takes its time to end it
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, consumer.ErrTimeout)
	defer cancel()
	_, err := consumertest.Run(ctx, p, consumer.Delivery{})
	if want := consumer.ErrTimeout.Error() + ": signal: terminated"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestProgramMayCleanUp(t *testing.T) {
	t.Parallel()
	path, cleaned := cleaningUp(t)
	p := newProcessor(t, command.Config{Command: path})
	command.SetKillAfter(p, patience)
	_, _, err := runUntil(t, p, "running", consumer.ErrShutdown)
	if !errors.Is(err, consumer.ErrShutdown) {
		t.Errorf("error %v, want %v: exit 0 after SIGTERM is no success", err, consumer.ErrShutdown)
	}
	if _, err := os.Stat(cleaned); err != nil {
		t.Errorf("the command had no chance to clean up: %v", err)
	}
}

// The shell ends at once, and must not take away the time of the program it waits for.
func TestProgramOfAShellMayCleanUp(t *testing.T) {
	t.Parallel()
	path, cleaned := cleaningUp(t)
	p := shell(t, path, "exit 0")
	command.SetKillAfter(p, patience)
	_, _, err := runUntil(t, p, "running", consumer.ErrTimeout)
	if err == nil || !strings.Contains(err.Error(), "signal: terminated") {
		t.Errorf("error %v, want one that says signal: terminated, of the shell", err)
	}
	if _, err := os.Stat(cleaned); err != nil {
		t.Errorf("the program that the shell has called had no chance to clean up: %v", err)
	}
}

// cleaningUp writes a script that takes 100 ms after SIGTERM to leave behind the
// file cleaned, and then exits with 0.
func cleaningUp(t *testing.T) (path, cleaned string) {
	t.Helper()
	cleaned = filepath.Join(t.TempDir(), "cleaned")
	return pythonScript(t,
		"import signal, sys, time",
		// Blocked, the signal cannot come between the last look at it and the wait.
		"signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
		"print('running', file=sys.stderr, flush=True)",
		"signal.sigwait([signal.SIGTERM])",
		"time.sleep(0.1)",
		"open('"+cleaned+"', 'w').close()"), cleaned
}

func TestWhoIgnoresSIGTERMIsKilled(t *testing.T) {
	p := shell(t,
		"trap '' TERM",
		"sleep 600 &", // which ignores it, too
		`echo "running $$ $!" >&2`,
		"wait")
	pids, took, err := runUntil(t, p, "running", consumer.ErrTimeout)
	if err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("error %v, want one that says signal: killed", err)
	}
	if took < grace || took > grace+limit {
		t.Errorf("it took %v after the timeout, want %v and little more", took, grace)
	}
	waitGone(t, strings.Fields(pids)...)
}

// A process that the program leaves behind would work on beside the next attempt,
// or the next message.
func TestWhatAProgramLeavesBehindIsKilled(t *testing.T) {
	for script, verdict := range map[string]string{"exit 0": "ack", "exit 1": "retry"} {
		log := new(stderrLog)
		start := time.Now()
		_, err := consumertest.RunLog(t.Context(), shell(t, "sleep 600 &", "echo $! >&2", script), consumer.Delivery{ReplyTo: "answers"}, log.logger())
		if got := consumertest.Verdict(err); got != verdict {
			t.Errorf("%s: verdict %s, want %s (%v)", script, got, verdict, err)
		}
		if took := time.Since(start); took > limit {
			t.Errorf("%s: the attempt took %v, want it to end with the program", script, took)
		}
		if len(log.lines) != 1 {
			t.Fatalf("%s: standard error %q, want one line", script, log.lines)
		}
		waitGone(t, log.lines...)
	}
}

// A daemon, in the old sense of the word, cannot be caught, but must not hold up
// the attempt by the output that it has inherited.
func TestEscapedProcessDoesNotHoldTheAttempt(t *testing.T) {
	p := python(t,
		"import os, time",
		"print('the answer', flush=True)",
		"r, w = os.pipe()",
		"if os.fork() == 0:",
		"    os.setsid()",
		"    os.write(2, b'%d\\n' % os.getpid())",
		"    os.write(w, b'.')",
		"    time.sleep(600)",
		"os.read(r, 1)")
	log := new(stderrLog)
	start := time.Now()
	result, err := consumertest.RunLog(t.Context(), p, consumer.Delivery{ReplyTo: "answers"}, log.logger())
	took := time.Since(start)
	if len(log.lines) != 1 {
		t.Fatalf("standard error %q, want the process id of the one that escaped", log.lines)
	}
	escaped, convErr := strconv.Atoi(log.lines[0])
	if convErr != nil {
		t.Fatal(convErr)
	}
	if !isRunning(t, log.lines[0]) {
		t.Error("the process did not escape, so that this test shows nothing")
	}
	if err := syscall.Kill(escaped, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err != nil || string(result.Body) != "the answer\n" {
		t.Errorf("result %q with error %v, want what the command wrote and nil", result.Body, err)
	}
	if took > limit {
		t.Errorf("the attempt took %v, want it to end soon after the program", took)
	}
	if len(log.warnings) != 1 || !strings.Contains(log.warnings[0].Message, "outside of its group") {
		t.Errorf("warnings %v, want one of the process that escaped", log.warnings)
	}
}

// TestProgramEndsWithAKilledDaemon has a process of its own be the daemon.
func TestProgramEndsWithAKilledDaemon(t *testing.T) {
	const asDaemon = "WARREN_TEST_AS_DAEMON"
	if os.Getenv(asDaemon) != "" {
		log := &stderrLog{onLine: func(pid string) { fmt.Println("running", pid) }}
		_, err := consumertest.RunLog(t.Context(), shell(t, "echo $$ >&2", "exec sleep 600"), consumer.Delivery{}, log.logger())
		t.Fatalf("the command has ended: %v", err)
	}
	daemon := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	daemon.Env = append(os.Environ(), asDaemon+"=1", "TMPDIR="+t.TempDir()) // it tidies nothing up
	output, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var pid string
	_, scanErr := fmt.Fscanf(output, "running %s\n", &pid)
	if err := daemon.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = daemon.Wait() // it was killed
	if scanErr != nil {
		t.Fatalf("the command's process id: %v", scanErr)
	}
	t.Cleanup(func() {
		if t.Failed() {
			n, _ := strconv.Atoi(pid)
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	})
	waitGone(t, pid)
}
