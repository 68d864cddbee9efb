package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// knob is a variable that makes a test longer or other than it is in CI.
func knob[T any](t *testing.T, name string, usual T, parse func(string) (T, error)) T {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	value, err := parse(text)
	if err != nil {
		t.Fatalf("%s is %q: %v", name, text, err)
	}
	return value
}

// TestHostileMessages publishes messages of a fiend, 2,000 at least, to six processors on
// queues of both types, beside a queue that is to notice nothing of it. What the broker
// takes is done, once, or is a dead letter. WARREN_TEST_HOSTILE is for how long it
// publishes, and WARREN_TEST_SEED which messages.
func TestHostileMessages(t *testing.T) {
	t.Parallel()
	const least, innocentEvery = 2000, 5
	lasting := knob(t, "WARREN_TEST_HOSTILE", 20*time.Second, time.ParseDuration)
	seed := knob(t, "WARREN_TEST_SEED", 11, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
	t.Logf("WARREN_TEST_SEED=%d", seed)
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if served.Add(1)%10 == 0 {
			http.Error(w, "no", http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", strings.Repeat("t", 305))
	}))
	t.Cleanup(server.Close)
	v := rabbittest.NewVhost(t)
	v.Declare(t, "answers", nil)
	dir := t.TempDir()
	ledger := filepath.Join(dir, "ledger")
	folder := sqlFolder(t, map[string]string{"one": "-- param: a int\nSELECT :a AS n"})
	processors := map[string]struct {
		good     string
		settings []string
	}{
		"log":     {`{"a": 1}`, nil},
		"command": {`{"a": 1}`, []string{"COMMAND=/bin/cat"}},
		"webhook": {`{"a": 1}`, []string{"URL=" + server.URL}},
		"email":   {`{"to": "a@b.c", "subject": "a", "text": "a"}`, []string{"MAILDIR=" + filepath.Join(dir, "mail"), "FROM=shop@example.com"}},
		"sql":     {`{"statement": "one", "params": {"a": 5}}`, []string{"STATEMENTS=" + folder}},
		"report":  {`{"report": "one", "params": {"a": 5}}`, []string{"REPORTS=" + folder, "OUTPUT=" + filepath.Join(dir, "reports")}},
	}
	env := []string{
		"WARREN_AMQP_URL=" + v.URL, "WARREN_ADMIN_ADDR=127.0.0.1:0", "WARREN_DATABASE_URL=sqlite:" + filepath.Join(dir, "warren.db"), "WARREN_MIGRATE=true",
		"WARREN_QUEUE_INNOCENT_PROCESSOR=command", "WARREN_QUEUE_INNOCENT_COMMAND=/bin/sh -c 'read -r id; echo $id >> " + ledger + "'",
	}
	queues, names := []string{"innocent"}, []string{"command", "email", "log", "report", "sql", "webhook"}
	var targets []string
	for _, name := range names {
		for _, queueType := range []string{"quorum", "classic"} {
			queue := name + queueType
			prefix := "WARREN_QUEUE_" + strings.ToUpper(queue) + "_"
			env = append(env, prefix+"PROCESSOR="+name, prefix+"TYPE="+queueType, prefix+"MAX_ATTEMPTS=2", prefix+"RETRY_BASE=100ms", prefix+"RETRY_MAX=1s")
			for _, s := range processors[name].settings {
				env = append(env, prefix+s)
			}
			queues, targets = append(queues, queue), append(targets, queue)
		}
	}
	env = append(env, "WARREN_QUEUES="+strings.Join(queues, ","))
	d := start(t, env...)
	rabbittest.Eventually(t, 30*time.Second, func() bool { return strings.Count(d.log.String(), "msg=consuming") == len(queues) }, "all queues are consumed")
	url := d.adminURL(t)

	// What comes from Warren's own user is believed.
	user := "fiend-" + strings.ToLower(v.Name)
	publisher := v.AddUser(t, user, "pw", "^$", ".*", "^$")
	raw := rabbittest.DialRaw(t, publisher)
	f := rabbittest.NewFiend(seed, raw.FrameMax(), user)
	taken, refused, innocent := make(map[string]int), 0, 0
	innocents := v.Channel(t)
	hostile, began := 0, time.Now()
	for ; hostile < least || time.Since(began) < lasting; hostile++ {
		i := hostile
		queue := targets[i%len(targets)]
		err := raw.Publish("", queue, rabbittest.RawProperties(f.Properties(i)), f.Body(processors[names[i%len(targets)/2]].good))
		switch _, objection := errors.AsType[*amqp091.Error](err); {
		case err == nil:
			taken[queue]++
		case objection:
			refused++
			raw = rabbittest.DialRaw(t, publisher)
		default:
			t.Fatalf("message %d to %s: %v", i, queue, err)
		}
		if i%innocentEvery == 0 {
			innocent++
			id := strconv.Itoa(i)
			if err := innocents.PublishWithContext(t.Context(), "", "innocent", false, false, amqp091.Publishing{MessageId: id, Body: []byte(id + "\n"), DeliveryMode: amqp091.Persistent}); err != nil {
				t.Fatal(err)
			}
		}
	}

	published := time.Since(began)

	// ended returns how many messages of a queue were done and how many are dead.
	ended := func(metrics, queue string) (done, dead int) {
		if m := regexp.MustCompile(`(?m)^warren_attempts_total\{[^}]*warren_queue="` + queue + `"[^}]*warren_verdict="ack"[^}]*\} (\d+)`).FindStringSubmatch(metrics); m != nil {
			done, _ = strconv.Atoi(m[1])
		}
		return done, v.Ready(t, queue+".dead")
	}
	var metrics string
	for _, queue := range targets {
		rabbittest.Eventually(t, time.Minute, func() bool {
			_, metrics = fetch(t, url+"/metrics")
			done, dead := ended(metrics, queue)
			return done+dead >= taken[queue] && v.Ready(t, queue)+v.Unacked(t, queue) == 0
		}, "all of "+queue+" has ended")
	}
	rabbittest.Eventually(t, time.Minute, func() bool { return len(lines(t, ledger)) >= innocent }, "the innocent are done")
	peak := peakResident(t, d.Process.Pid)
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)

	eachOnce(t, lines(t, ledger), innocent)
	var report []string
	taker := rabbittest.DialRaw(t, v.URL)
	for _, queue := range targets {
		done, dead := ended(metrics, queue)
		if done+dead != taken[queue] || v.Ready(t, queue) != 0 {
			t.Errorf("%s: %d were done, %d are dead, %d are left, of %d", queue, done, dead, v.Ready(t, queue), taken[queue])
		}
		report = append(report, fmt.Sprintf("%s %d/%d", queue, done, dead))
		for range dead {
			m, ok, err := taker.Get(queue + ".dead")
			if err != nil || !ok {
				t.Fatalf("take from queue %s.dead: got a message %t and error %v, want true and nil", queue, ok, err)
			}
			if !bytes.Contains(m.Properties, []byte("x-warren-error")) && !bytes.Contains(m.Properties, []byte("x-death")) {
				t.Errorf("%s: a dead letter says nothing of why it is one: %.300q", queue, m.Properties)
			}
		}
	}
	t.Logf("%d in %v, refused %d; done/dead: %s; at most %d MiB resident", hostile, published.Round(time.Second), refused, strings.Join(report, ", "), peak>>20)
	if lost := strings.Count(d.log.String(), "connection lost"); lost != 0 {
		t.Errorf("the connection was lost %d times", lost)
	}
	if peak > 256<<20 {
		t.Errorf("at most %d bytes of memory were resident, want at most 256 MiB", peak)
	}
}
