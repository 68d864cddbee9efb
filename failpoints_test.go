//go:build failpoints

package main

import (
	"database/sql"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/failpoint"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// armed is the program with its failpoints.
var armed = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "warren-failpoints-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "warren")
	if out, err := exec.Command("go", "build", "-tags", "failpoints", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// TestFailpoints has a daemon killed, held up or fail at each of its failpoints while
// its connections are lost and it is deployed anew, and looks at what became of every
// message: none may be lost. Finished work is done again for two reasons alone, both of
// them documented: the daemon was killed, which repeats as much as it had at hand, or the
// confirm of a message's copy was lost and the daemon that knew of it has ended.
func TestFailpoints(t *testing.T) {
	for _, d := range failpoint.Descriptions() {
		for _, act := range []string{"kill", "delay", "error"} {
			t.Run(string(d.Point)+"/"+act, func(t *testing.T) {
				t.Parallel()
				fail(t, string(d.Point)+"="+act)
			})
		}
	}
}

const (
	failMessages = 30 // of each kind
	failPrefetch = 8
)

func fail(t *testing.T, at string) {
	v := rabbittest.NewVhost(t)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	dir := t.TempDir()
	ledger, mark := filepath.Join(dir, "ledger"), filepath.Join(dir, "failed")
	env := failEnvironment(t, v.URLAt(p.Addr), dir, ledger)
	path, err := armed()
	if err != nil {
		t.Fatal(err)
	}
	migrate := exec.Command(path, "migrate")
	migrate.Env = env
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	db := open(t, dir)
	if _, err := db.Exec(`CREATE TABLE effects (id TEXT);
		CREATE TRIGGER tell AFTER INSERT ON effects BEGIN INSERT INTO warren_outbox (routing_key, body) VALUES ('out', NEW.id); END`); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"answers", "out", "ticks"} {
		v.Declare(t, q, nil)
	}

	env = append(env, "FAILPOINT="+at, "FAILPOINT_FILE="+mark)
	d := launchProgram(t, path, nil, env...)
	starts := 1
	// alive starts it again as systemd does.
	alive := func() {
		if d.hasEnded() {
			d = launchProgram(t, path, nil, env...)
			starts++
		}
	}
	until := func(what string, condition func() bool) {
		t.Helper()
		rabbittest.Eventually(t, 2*time.Minute, func() bool { alive(); return condition() }, what)
	}
	until("both queues are there", func() bool { return strings.Count(d.log.String(), "msg=consuming") >= 2 })

	kinds := map[string]int{"well": failMessages / 3, "fails-once": failMessages / 3, "never": failMessages / 3, "delayed": failMessages / 3, "answers": failMessages / 3}
	for kind, n := range kinds {
		v.PublishN(t, "work", n, func(i int) amqp091.Publishing {
			m := amqp091.Publishing{MessageId: fmt.Sprint(kind, "-", i), DeliveryMode: amqp091.Persistent}
			switch kind {
			case "delayed":
				m.Headers = amqp091.Table{"x-delay": 1500}
			case "answers":
				m.ReplyTo = "answers"
			}
			return m
		})
	}
	v.PublishN(t, "rows", failMessages, func(i int) amqp091.Publishing {
		return amqp091.Publishing{
			MessageId: fmt.Sprint("row-", i), DeliveryMode: amqp091.Persistent,
			Body: fmt.Appendf(nil, `{"statement": "add", "params": {"id": "row-%d"}}`, i),
		}
	})
	ended := func() int { return len(lines(t, ledger)) }
	until("some are done", func() bool { return ended() >= failMessages/3 })
	p.Refuse() // what is under way ends without a connection
	<-time.After(time.Second)
	p.Restore(t)
	until("more are done", func() bool { return ended() >= failMessages })
	// It is told to stop with deliveries at hand that it has not begun.
	until("more is handed out than it works at once", func() bool {
		ready := v.Ready(t, "work")
		if v.Unacked(t, "work") > failPrefetch/2 && ready >= failPrefetch { // and is when the signal comes
			return true
		}
		if ready < failPrefetch {
			first := kinds["late"]
			kinds["late"] += 6 * failPrefetch
			v.PublishN(t, "work", 6*failPrefetch, func(i int) amqp091.Publishing {
				return amqp091.Publishing{MessageId: fmt.Sprint("late-", first+i), DeliveryMode: amqp091.Persistent}
			})
		}
		return false
	})
	_ = d.Process.Signal(syscall.SIGTERM)
	rabbittest.Eventually(t, 2*time.Minute, d.hasEnded, "the daemon has ended")

	queues := []string{"work", "rows"}
	for _, q := range queues {
		for _, step := range []string{"1s", "2s", "4s"} {
			queues = append(queues, "warren.wait."+q+"."+step)
		}
	}
	// What is on its way from a wait to its home is in neither of them.
	underWay := func() (ids []string) {
		done := lines(t, ledger)
		for kind, n := range kinds {
			for i := range n {
				if id := fmt.Sprint(kind, "-", i); kind != "never" && !slices.Contains(done, id) {
					ids = append(ids, id)
				}
			}
		}
		return ids
	}
	until("all is drained and done", func() bool {
		if len(underWay()) > 0 {
			return false
		}
		for _, q := range queues {
			if there(t, v, q) && v.Ready(t, q)+v.Unacked(t, q) > 0 {
				return false
			}
		}
		return v.Ready(t, "out") >= failMessages && v.Ready(t, "ticks") >= 3 && v.Ready(t, "work.dead") >= failMessages/3
	})
	_ = d.Process.Signal(syscall.SIGTERM)
	rabbittest.Eventually(t, 2*time.Minute, d.hasEnded, "the daemon has ended")
	if !exists(mark) {
		t.Errorf("the failpoint %s was not reached", at)
	}

	dead := make(map[string]int)
	for _, m := range v.Drain(t, "work.dead") {
		dead[m.MessageId]++
	}
	done := make(map[string]int)
	for _, id := range lines(t, ledger) {
		done[id]++
	}
	var repeats, ofCopies, deadTwice int
	for kind, n := range kinds {
		for i := range n {
			id := fmt.Sprint(kind, "-", i)
			if kind == "never" {
				if done[id] > 0 || dead[id] == 0 {
					t.Errorf("message %s: done %d times, %d dead letters; want a dead letter", id, done[id], dead[id])
				}
				deadTwice += max(0, dead[id]-1)
				continue
			}
			if done[id] == 0 || dead[id] > 0 {
				t.Errorf("message %s: done %d times, %d dead letters; want it done", id, done[id], dead[id])
			}
			again := max(0, done[id]-1)
			if kind == "delayed" || kind == "fails-once" { // their copies wait
				ofCopies += again
			} else {
				repeats += again
			}
		}
	}
	var effects, of int
	if err := db.QueryRow("SELECT count(*), count(DISTINCT id) FROM effects").Scan(&effects, &of); err != nil || effects != failMessages || of != failMessages {
		t.Errorf("%d effects of %d messages (%v), want one each of %d", effects, of, err, failMessages)
	}
	out := make(map[string]int)
	for _, m := range v.Drain(t, "out") {
		out[string(m.Body)]++
	}
	if len(out) != failMessages {
		t.Errorf("the outbox has published %d messages, want %d", len(out), failMessages)
	}
	answers := make(map[string]bool)
	for _, m := range v.Drain(t, "answers") {
		answers[string(m.Body)] = true
	}
	delete(answers, "") // a repeat that the inbox knows, whose answer has been sent
	if len(answers) != failMessages/3 {
		t.Errorf("%d messages were answered, want %d", len(answers), failMessages/3)
	}
	planned := make(map[int64]int)
	for _, m := range v.Drain(t, "ticks") {
		planned[m.Headers["x-warren-scheduled-for"].(int64)]++
	}
	times := slices.Sorted(maps.Keys(planned))
	for i := 1; i < len(times); i++ {
		if times[i]-times[i-1] != 1000 {
			t.Errorf("after the firing planned for %d comes %d", times[i-1], times[i])
		}
	}
	doubles := 0
	for _, n := range out {
		doubles += n - 1
	}
	for _, n := range planned {
		doubles += n - 1
	}
	t.Logf("%s: %d starts; %d repeats, %d of copies; %d dead letters, %d messages of the outbox and firings twice", at, starts, repeats, ofCopies, deadTwice, doubles)
	allowed := 0
	if strings.HasSuffix(at, "=kill") {
		allowed = failPrefetch
	}
	if repeats > allowed || ofCopies > failPrefetch || deadTwice > failPrefetch {
		t.Errorf("%d repeats of finished work, %d of messages that have waited and %d dead letters twice; want %d, %d and %d at most",
			repeats, ofCopies, deadTwice, allowed, failPrefetch, failPrefetch)
	}
	if t.Failed() {
		repeated := maps.Collect(maps.All(done))
		maps.DeleteFunc(repeated, func(_ string, n int) bool { return n == 1 })
		t.Logf("done more than once: %v; dead: %v", repeated, dead)
	}
}

// failEnvironment has a queue of commands, one of SQL, a schedule and states.
func failEnvironment(t *testing.T, url, dir, ledger string) []string {
	t.Helper()
	handler := filepath.Join(dir, "handler")
	script := `#!/bin/sh
sleep 0.1
case $WARREN_MESSAGE_ID in
never-*) exit 65 ;;
fails-once-*) [ "$WARREN_ATTEMPT" -gt 1 ] || exit 1 ;;
esac
echo "$WARREN_MESSAGE_ID" >>` + ledger + `
printf '"%s"' "$WARREN_MESSAGE_ID"
`
	writeProgram(t, handler, script)
	statements := filepath.Join(dir, "statements")
	if err := os.Mkdir(statements, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(statements, "add.sql"), []byte("-- param: id text\nINSERT INTO effects (id) VALUES (:id);\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{
		"PATH=" + os.Getenv("PATH"), "WARREN_AMQP_URL=" + url, "WARREN_DATABASE_URL=sqlite:" + filepath.Join(dir, "db"), "WARREN_ADMIN_ADDR=127.0.0.1:0", "WARREN_ADMIN_TOKEN=" + strings.Repeat("t", 32), "WARREN_LOG_FORMAT=text",
		"WARREN_QUEUES=work,rows",
		"WARREN_QUEUE_WORK_PROCESSOR=command", "WARREN_QUEUE_WORK_COMMAND=" + handler, "WARREN_QUEUE_WORK_CONCURRENCY=4", fmt.Sprint("WARREN_QUEUE_WORK_PREFETCH=", failPrefetch), "WARREN_QUEUE_WORK_RETRY_BASE=1s",
		"WARREN_QUEUE_ROWS_PROCESSOR=sql", "WARREN_QUEUE_ROWS_STATEMENTS=" + statements,
		"WARREN_SCHEDULES=tick", "WARREN_SCHEDULE_TICK_EVERY=1s", "WARREN_SCHEDULE_TICK_QUEUE=ticks", "WARREN_SCHEDULE_TICK_MISFIRE=all",
	}
}

// open opens the database of the daemon.
func open(t *testing.T, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// there tells whether there is such a queue; a wait is declared when it is needed.
func there(t *testing.T, v *rabbittest.Vhost, queue string) bool {
	_, err := v.Channel(t).QueueDeclarePassive(queue, true, false, false, false, nil)
	return err == nil
}
