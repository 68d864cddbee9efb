package main

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestPauseFromTheCommandLine pauses a queue of two daemons and resumes it.
func TestPauseFromTheCommandLine(t *testing.T) {
	v := rabbittest.NewVhost(t)
	env := []string{"WARREN_AMQP_URL=" + v.URL}
	daemon := append(env, "WARREN_QUEUES=emails", "WARREN_QUEUE_EMAILS_PROCESSOR=log", "WARREN_ADMIN_ADDR=127.0.0.1:0")
	first := start(t, daemon...)
	start(t, daemon...)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Consumers(t, "emails") == 2 }, "both consume")
	want := func(status int, stdout, stderr string, args ...string) {
		t.Helper()
		out, errs, got := output(t, warren(t, env, args...))
		if got != status || !regexp.MustCompile("^"+stdout+"$").MatchString(out) || !regexp.MustCompile("^"+stderr+"$").MatchString(errs) {
			t.Errorf("%q: got status %d, output %q and standard error %q; want %d, %q, %q", args, got, out, errs, status, stdout, stderr)
		}
	}
	want(1, "", "warren: there is no queue emials: check the name\n", "pause", "emials", "--yes")
	want(1, "", `warren: pause emails \(2 consumers, 0 messages ready\) until resumed: there is no terminal to ask on; say --yes, or --dry-run\n`, "pause", "emails")
	want(0, `pause emails \(2 consumers, 0 messages ready\) for 1h0m0s\n`, "", "pause", "emails", "--for=1h", "--dry-run")
	want(0, `emails: not paused\n`, "", "resume", "emails", "--yes")
	want(0, `emails: paused for 1h0m0s, nobody takes messages; 0 messages ready\n`, "", "pause", "emails", "--for=1h", "--why=mail server\x1b moves", "--yes")
	v.Publish(t, "emails", amqp091.Publishing{Body: []byte("{}")})
	status, body := fetch(t, first.adminURL(t)+"/readyz")
	if status != http.StatusOK || !strings.Contains(body, `{"name":"emails","ready":true,"paused":"for `) || !strings.Contains(body, `: mail server\u001b moves"`) {
		t.Errorf("/readyz says %d %s, want ready, and who has paused it and why", status, body)
	}
	_, metrics := fetch(t, first.adminURL(t)+"/metrics")
	for _, gauge := range []string{`warren_queue_paused`, `warren_queue_consuming`} {
		value := regexp.MustCompile(gauge + `\{.*warren_queue="emails".*\} (\d)`).FindStringSubmatch(metrics)
		if is := map[string]string{"warren_queue_paused": "1", "warren_queue_consuming": "0"}[gauge]; len(value) != 2 || value[1] != is {
			t.Errorf("%s is %q, want %s", gauge, value, is)
		}
	}
	want(0, `resume emails \(paused for \d+s by guest \(\S+\) until \S+: mail server  moves\)\n`, "", "resume", "emails", "--dry-run")
	want(0, `emails: resumed; [12] consumers?, \d messages? ready\n`, "", "resume", "emails", "--yes")
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "emails") == 0 && v.Consumers(t, "emails") == 2 }, "both work again")

	// What obeys somebody else goes on, and that is said.
	ch := v.Channel(t)
	if _, err := ch.Consume("emails", "", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	want(3, `emails: paused until resumed, but 1 consumer is left: not Warren, older than this, or not told by WARREN_CONTROL_USERS to obey guest; 0 messages ready\n`,
		"warren: some still take messages\n", "pause", "emails", "--yes")
}

// fleetSize is how many daemons are run as processes: 4, or WARREN_TEST_FLEET.
func fleetSize(t *testing.T) int {
	t.Helper()
	text := os.Getenv("WARREN_TEST_FLEET")
	if text == "" {
		return 4
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFleetOfProcesses sees a fleet, steers it, and measures how long that takes.
func TestFleetOfProcesses(t *testing.T) {
	v := rabbittest.NewVhost(t)
	env := []string{"WARREN_AMQP_URL=" + v.URL}
	size := fleetSize(t)
	for i := range size {
		settings := append(env, "WARREN_QUEUES=emails", "WARREN_QUEUE_EMAILS_PROCESSOR=log", "WARREN_ADMIN_ADDR=")
		if i == 0 {
			settings = append(settings, "WARREN_QUEUE_EMAILS_MAX_ATTEMPTS=3")
		}
		start(t, settings...)
	}
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Consumers(t, "emails") == size }, "all consume")
	var out, errs string
	var status int
	var took time.Duration
	rabbittest.Eventually(t, time.Minute, func() bool {
		begun := time.Now()
		out, errs, status = output(t, warren(t, env, "ps"))
		took = time.Since(begun)
		return strings.Count(out, "\n") == size+2
	}, "all answer")
	t.Logf("ps of %d daemons took %v", size, took.Round(time.Millisecond))
	row := regexp.MustCompile(`(?m)^\S+/\d+ +\S+ +\d+[sm]  127\.0\.0\.1:\d+ +0/8     -       emails$`)
	if status != 0 || errs != "" || len(row.FindAllString(out, -1)) != size || !strings.HasPrefix(out, "DAEMON ") ||
		!regexp.MustCompile(`(?m)^! emails is configured in 2 ways: [0-9a-f]{8} on \S+/\d+; [0-9a-f]{8} on `).MatchString(out) {
		t.Errorf("ps: status %d, standard error %q and\n%s", status, errs, out)
	}
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "!") && len([]rune(line)) > 81 {
			t.Errorf("a row has more than 80 characters: %q", line)
		}
	}
	lines, _, _ := output(t, warren(t, env, "ps", "-o", "jsonl"))
	for line := range strings.Lines(lines) {
		var a struct {
			Daemon struct{ Host string }
			Status struct {
				Queues []struct {
					Queue string
					Slots int
				}
			}
		}
		if err := json.Unmarshal([]byte(line), &a); err != nil || a.Daemon.Host == "" || len(a.Status.Queues) != 1 || a.Status.Queues[0].Slots != 8 {
			t.Errorf("as JSON: %v: %s", err, line)
		}
	}
	var whole struct {
		Daemons []any
		Notes   []string
		Queues  []struct{ Consumers int }
	}
	text, _, _ := output(t, warren(t, env, "ps", "-o", "json"))
	if err := json.Unmarshal([]byte(text), &whole); err != nil || len(whole.Queues) != 1 || whole.Queues[0].Consumers != size {
		t.Errorf("as one JSON: %v: %s", err, text)
	}

	// Every act says whom it concerns, and what came of it.
	host, _ := os.Hostname()
	dry, _, status := output(t, warren(t, env, "quiet", host, "--dry-run"))
	if status != 0 || !strings.HasPrefix(dry, "finish what is in flight and take no more: "+strconv.Itoa(size)+" daemons (") {
		t.Errorf("quiet --dry-run: status %d, %q", status, dry)
	}
	for _, c := range []struct {
		args      []string
		consumers int
	}{
		{[]string{"quiet", "--all", "--why=deploy"}, 0}, {[]string{"work", host}, size}, {[]string{"level", "debug", "--for=1m", "--all"}, size},
	} {
		begun := time.Now()
		out, errs, status := output(t, warren(t, env, append(c.args, "--yes", "--wait=20s")...))
		if status != 0 || strings.Count(out, ": done\n") != size {
			t.Errorf("%q: status %d, standard error %q and\n%s", c.args, status, errs, out)
		}
		rabbittest.Eventually(t, time.Minute, func() bool { return v.Consumers(t, "emails") == c.consumers }, "it is so")
		t.Logf("%q took %v", c.args, time.Since(begun).Round(time.Millisecond))
	}
	for _, c := range [][]string{{"quiet"}, {"work", "nowhere", "--yes"}, {"cancel", "none", "--yes"}, {"level", "debug", "--all", "--for=1ms"}} {
		if out, errs, status := output(t, warren(t, env, c...)); status != 1 || out != "" || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: status %d, %q and standard error %q, want one line and 1", c, status, out, errs)
		}
	}
	begun := time.Now()
	if out, errs, status := output(t, warren(t, env, "pause", "emails", "--yes")); status != 0 {
		t.Errorf("pause: status %d, %q, %q", status, out, errs)
	}
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Consumers(t, "emails") == 0 }, "all have paused")
	t.Logf("pause took %v", time.Since(begun).Round(time.Millisecond))
}

// TestCancelKillsACommand ends a command that hangs, with all that it has started.
func TestCancelKillsACommand(t *testing.T) {
	v := rabbittest.NewVhost(t)
	folder := t.TempDir()
	d := start(t, commandQueue(v, "orders", `sleep 1000 & echo $! > `+folder+`/child; wait`, "WARREN_ADMIN_ADDR=")...)
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "hangs"})
	var pid int
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		text, _ := os.ReadFile(folder + "/child")
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0
	}, "the command runs")
	env := []string{"WARREN_AMQP_URL=" + v.URL}
	out, _, _ := output(t, warren(t, env, "ps"))
	if !regexp.MustCompile(` 1/\d+ +\d+s hangs +orders\n`).MatchString(out) {
		t.Errorf("ps shows\n%s\nwant the attempt", out)
	}
	begun := time.Now()
	if out, errs, status := output(t, warren(t, env, "cancel", "hangs", "--why=it hangs", "--yes")); status != 0 || !strings.HasSuffix(out, ": done\n") {
		t.Errorf("cancel: status %d, %q, standard error %q", status, out, errs)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return syscall.Kill(pid, 0) != nil && v.Ready(t, "orders.dead") == 1 }, "what the command had started is gone, and the message dead")
	t.Logf("cancel took %v", time.Since(begun).Round(time.Millisecond))
	host, _ := os.Hostname()
	dead := v.Drain(t, "orders.dead")
	if dead[0].Headers["x-warren-reason"] != "cancelled" || !strings.HasPrefix(dead[0].Headers["x-warren-error"].(string), "cancelled by guest ("+host+"): it hangs") {
		t.Errorf("the dead letter has the headers %v, want the reason cancelled, and by whom", dead[0].Headers)
	}
	_ = d
}
