package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// adminURL is where the daemon's admin server listens, from its log.
func (d *process) adminURL(t *testing.T) string {
	t.Helper()
	addr := regexp.MustCompile(`msg="admin server listens" addr=(\S+)`).FindStringSubmatch(d.log.String())
	if addr == nil {
		t.Fatalf("no admin server in the log:\n%s", d.log.String())
	}
	return "http://" + addr[1]
}

func fetch(t *testing.T, url string) (status int, body string) {
	t.Helper()
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

// TestReadinessFollowsTheConsumer has the broker cancel the consumer by deleting its
// queue, which Warren may not declare again.
func TestReadinessFollowsTheConsumer(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR=127.0.0.1:0")
	start(t, env...).signal(t, os.Interrupt) // declares the queues
	d := start(t, append(env, "WARREN_QUEUE_ORDERS_DECLARE=false")...)
	url := d.adminURL(t)
	ready := func() bool { status, _ := fetch(t, url+"/readyz"); return status == http.StatusOK }
	rabbittest.Eventually(t, 5*time.Second, ready, "ready at first")

	v.DeleteQueue(t, "orders")
	deleted := time.Now()
	rabbittest.Eventually(t, 2*time.Second, func() bool { return !ready() }, "not ready")
	t.Logf("not ready %v after the consumer was cancelled", time.Since(deleted).Round(time.Millisecond))
	rabbittest.Eventually(t, 5*time.Second, func() bool {
		_, body := fetch(t, url+"/readyz")
		return strings.Contains(body, `"name":"orders","ready":false,"reason":"queue orders is missing`)
	}, "it says why")
	if status, body := fetch(t, url+"/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d %s", status, body)
	}
	v.Declare(t, "orders", nil)
	rabbittest.Eventually(t, 5*time.Second, ready, "ready again")
}

// TestWhatIsDocumentedIsMeasured works messages of each fate and looks for every metric
// of the dashboard, the alerts and docs/observability.md among the daemon's.
func TestWhatIsDocumentedIsMeasured(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	d := start(t, commandQueue(v, "orders", `read -r what; exit $what`, "WARREN_ADMIN_ADDR=127.0.0.1:0", "WARREN_QUEUE_ORDERS_MAX_ATTEMPTS=2",
		"WARREN_DATABASE_URL=sqlite:"+filepath.Join(t.TempDir(), "warren.db"), "WARREN_MIGRATE=true",
		"WARREN_SCHEDULES=seed", "WARREN_SCHEDULE_SEED_ONCE=true", "WARREN_SCHEDULE_SEED_QUEUE=seeds")...)
	v.Publish(t, "orders",
		amqp091.Publishing{Body: []byte("0\n")}, amqp091.Publishing{Body: []byte("65\n")}, amqp091.Publishing{Body: []byte("1\n")},
		amqp091.Publishing{Body: []byte("0\n"), ReplyTo: "nobody"})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "orders.dead") == 2 }, "two are dead-lettered")
	url := d.adminURL(t)
	var exposed string
	rabbittest.Eventually(t, 5*time.Second, func() bool {
		_, exposed = fetch(t, url+"/metrics")
		return strings.Contains(exposed, `warren_dead_letters_total{warren_queue="orders",warren_reason="exhausted"`)
	}, "the dead letters are counted")
	has := func(series string) bool {
		return regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + `(\{| )`).MatchString(exposed)
	}

	name := regexp.MustCompile(`\b(?:warren|messaging|process|go)_[a-z_]*[a-z]`)
	labels := []string{"warren_queue", "warren_verdict", "warren_reason", "warren_purpose", "warren_schedule", "messaging_destination_name"}
	for _, file := range []string{"telemetry/dashboard.json", "telemetry/alerts.yml"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := slices.Compact(slices.Sorted(slices.Values(name.FindAllString(string(content), -1))))
		if len(names) < 10 {
			t.Errorf("%s uses only %d metrics", file, len(names))
		}
		for _, n := range names {
			if !slices.Contains(labels, n) && !has(n) {
				t.Errorf("%s uses %s, which the daemon does not expose", file, n)
			}
		}
	}

	page, err := os.ReadFile("docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "## Metrics")
	table, _, _ = strings.Cut(table, "Prometheus sees them")
	documented := regexp.MustCompile("`((?:messaging|warren)\\.[a-z_.]+)`(?:, `(warren\\.slots)`)? \\|").FindAllStringSubmatch(table, -1)
	var count int
	for _, row := range documented {
		for _, metric := range row[1:] {
			if metric == "" || slices.Contains(labels, strings.ReplaceAll(metric, ".", "_")) {
				continue
			}
			count++
			prefix := strings.ReplaceAll(metric, ".", "_")
			if !slices.ContainsFunc([]string{"", "_total", "_seconds", "_seconds_bucket"}, func(suffix string) bool { return has(prefix + suffix) }) {
				t.Errorf("docs/observability.md has %s, which the daemon does not expose", metric)
			}
		}
	}
	if count < 15 {
		t.Errorf("only %d metrics were found in docs/observability.md", count)
	}
}

// TestAlerts has promtool check the rules, and see each fire on what it is for.
func TestAlerts(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.Command("promtool", args...)
		cmd.Dir = "telemetry"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %q (apt-get install prometheus provides it): %v\n%s", args, err, out)
		}
	}
}
