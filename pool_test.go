package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// poolQueue are the variables for a queue whose handler in Python, in the folder that is
// returned, stays. It executes bodies, and writes its process id to the file pids there.
func poolQueue(t *testing.T, v *rabbittest.Vhost, more ...string) (env []string, dir string) {
	t.Helper()
	dir = t.TempDir()
	handler := filepath.Join(dir, "handler")
	script := `#!/usr/bin/python3
import json, os, sys, time
os.chdir(os.path.dirname(os.path.abspath(__file__)))
open("pids", "a").write(f"{os.getpid()}\n")
def wait(name):
    open("waiting", "a").write("x\n")
    while not os.path.exists(name): time.sleep(0.01)
def answer(verdict, **fields):
    print(json.dumps({"id": m["id"], "verdict": verdict, **fields}), flush=True)
for line in sys.stdin:
    m = json.loads(line)
    exec(m["body"])
open("ended", "a").write("x\n")
`
	writeProgram(t, handler, script)
	return append([]string{
		"WARREN_AMQP_URL=" + v.URL,
		"WARREN_QUEUES=commands",
		"WARREN_QUEUE_COMMANDS_PROCESSOR=command",
		"WARREN_QUEUE_COMMANDS_COMMAND=" + handler,
		"WARREN_QUEUE_COMMANDS_MODE=pool",
		"WARREN_QUEUE_COMMANDS_CONCURRENCY=4",
	}, more...), dir
}

// allGone waits until none of the processes is running.
func allGone(t *testing.T, pids []string) {
	t.Helper()
	for _, pid := range pids {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		rabbittest.Eventually(t, 30*time.Second, func() bool {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n))
			return err != nil || strings.Contains(string(status), "\nState:\tZ")
		}, fmt.Sprintf("process %d has ended", n))
	}
}

// TestPoolFromBrokerToBroker has a few messages among many good ones do to their process
// whatever can be done to it: they alone end as dead letters, each with what it did.
func TestPoolFromBrokerToBroker(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "answers", nil)
	env, dir := poolQueue(t, v, "WARREN_QUEUE_COMMANDS_MAX_ATTEMPTS=2", "WARREN_QUEUE_COMMANDS_RETRY_BASE=10ms", "WARREN_QUEUE_COMMANDS_TIMEOUT=60s")
	d := start(t, env...)
	const good = 500
	bad := map[string]struct{ body, reason, want string }{
		"crash":   {"print('bye', file=sys.stderr); os._exit(3)", "exhausted", "the command ended without an answer: exit status 3: bye"},
		"garbage": {"os.write(1, os.urandom(8).hex().encode() * (1 << 20)); time.sleep(600)", "exhausted", "the command wrote to its standard output what is no answer"},
		"another": {"m['id'] += 1; answer('ok'); time.sleep(600)", "exhausted", "the command wrote to its standard output what is no answer"},
		"hang":    {"time.sleep(600)", "exhausted", "the attempt took longer than the queue's timeout: signal: terminated"},
		"dead":    {"answer('dead', reason='no such order')", "permanent", "the command answered dead: no such order"},
	}
	for name, message := range bad {
		v.Publish(t, "commands", amqp091.Publishing{MessageId: name, Body: []byte(message.body)})
	}
	v.PublishN(t, "commands", good, func(i int) amqp091.Publishing {
		p := withID("answer('ok', result=ID)")(i)
		p.ReplyTo, p.CorrelationId = "answers", p.MessageId
		return p
	})
	v.Publish(t, "commands", amqp091.Publishing{MessageId: "twice", ReplyTo: "answers", CorrelationId: "500", Body: []byte("answer('ok', result=500); answer('ok', result=501)")})
	rabbittest.Eventually(t, 2*time.Minute, func() bool {
		return v.Ready(t, "answers") == good+1 && v.Ready(t, "commands.dead") == len(bad)
	}, fmt.Sprintf("%d are answered, %d dead", good+1, len(bad)))
	for _, answer := range v.Drain(t, "answers") {
		if string(answer.Body) != answer.CorrelationId {
			t.Errorf("the answer to %s is %s", answer.CorrelationId, answer.Body)
		}
	}
	for _, dead := range v.Drain(t, "commands.dead") {
		want := bad[dead.MessageId]
		if text, _ := dead.Headers["x-warren-error"].(string); !strings.HasPrefix(text, want.want) || dead.Headers["x-warren-reason"] != want.reason {
			t.Errorf("%s: dead as %v with %.300q, want %s and %q", dead.MessageId, dead.Headers["x-warren-reason"], text, want.reason, want.want)
		}
	}
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
	allGone(t, lines(t, filepath.Join(dir, "pids")))
}

// TestPoolStopsWithTheDaemon stops it with two children at work and one that has none: the
// work is finished, and no child is left.
func TestPoolStopsWithTheDaemon(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env, dir := poolQueue(t, v, "WARREN_SHUTDOWN_TIMEOUT=10m")
	d := start(t, env...)
	v.PublishN(t, "commands", 3, withID("wait('goID'); answer('ok')"))
	atWork := func() int { return len(lines(t, filepath.Join(dir, "waiting"))) }
	rabbittest.Eventually(t, 20*time.Second, func() bool { return atWork() == 3 }, "three messages are worked")
	let := func(i int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("go%d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	let(0)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Unacked(t, "commands") == 2 }, "one is done")
	if err := d.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Contains(d.log.String(), "stopping") }, "the daemon is stopping")
	let(1)
	let(2)
	<-d.ended
	wantExit(t, d, 0)
	if v.Ready(t, "commands") != 0 {
		t.Error("messages are left, want the work finished")
	}
	allGone(t, lines(t, filepath.Join(dir, "pids")))
}

// TestPoolEndsWithAKilledDaemon: no child outlives it, at work or not.
func TestPoolEndsWithAKilledDaemon(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env, dir := poolQueue(t, v)
	d := start(t, env...)
	v.PublishN(t, "commands", 3, withID("wait('goID'); answer('ok')"))
	rabbittest.Eventually(t, 20*time.Second, func() bool { return len(lines(t, filepath.Join(dir, "waiting"))) == 3 }, "three messages are worked")
	if err := os.WriteFile(filepath.Join(dir, "go0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Unacked(t, "commands") == 2 }, "one is done")
	pids := lines(t, filepath.Join(dir, "pids"))
	slices.Sort(pids)
	if len(slices.Compact(pids)) != 3 {
		t.Fatalf("the children are %q, want three", pids)
	}
	d.signal(t, syscall.SIGKILL)
	allGone(t, pids)
	if ended := lines(t, filepath.Join(dir, "ended")); len(ended) > 1 {
		t.Errorf("%d children have ended by themselves, want those at work killed", len(ended))
	}
}
