package main

import (
	"net/http"
	"regexp"
	"strings"
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
