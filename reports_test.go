package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// sqlFolder makes a folder with the files, by name without .sql.
func sqlFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name+".sql"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A made is the result of a report.
type made struct {
	Location string
	Rows     int64
	Bytes    int64
}

// answer waits for the next message of a queue, and reads it into to.
func answer(t *testing.T, v *rabbittest.Vhost, queue string, to any) {
	t.Helper()
	rabbittest.Eventually(t, 3*time.Minute, func() bool { return v.Ready(t, queue) == 1 }, "the result has come")
	if err := json.Unmarshal(v.Drain(t, queue)[0].Body, to); err != nil {
		t.Fatal(err)
	}
}

// TestLargeReports makes reports of a million rows, in little memory.
func TestLargeReports(t *testing.T) {
	t.Parallel()
	const rows = `-- param: rows int
SELECT g AS id, 'Customer ' || g AS name, now() AS at, g * 1.01 AS price, CASE WHEN g % 2 = 0 THEN 'a note, with a comma' END AS note FROM generate_series(1, :rows) g`
	v := rabbittest.NewVhost(t)
	v.Declare(t, "results", nil)
	for _, test := range []struct {
		format string
		rows   int64
	}{{"csv", 1_000_000}, {"json", 1_000_000}, {"html", 1_000_000}, {"xlsx", 200_000}, {"xlsx", 1_048_575}} {
		t.Run(fmt.Sprintf("%s %d", test.format, test.rows), func(t *testing.T) {
			d := start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=reports", "WARREN_QUEUE_REPORTS_PROCESSOR=report",
				"WARREN_QUEUE_REPORTS_REPORTS="+sqlFolder(t, map[string]string{"large": rows}),
				"WARREN_QUEUE_REPORTS_SOURCE_URL="+pgtest.URL(t), "WARREN_QUEUE_REPORTS_OUTPUT="+t.TempDir())
			begun := time.Now()
			v.Publish(t, "reports", amqp091.Publishing{ReplyTo: "results", Body: fmt.Appendf(nil, `{"report": "large", "format": %q, "params": {"rows": %d}}`, test.format, test.rows)})
			var r made
			answer(t, v, "results", &r)
			took, peak := time.Since(begun), peakResident(t, d.Process.Pid)
			info, err := os.Stat(r.Location)
			if err != nil || info.Size() != r.Bytes || r.Rows != test.rows {
				t.Errorf("got %+v and %v, %v", r, info, err)
			}
			t.Logf("%d rows, %d bytes in %v, at most %.1f MiB resident", r.Rows, r.Bytes, took.Round(time.Millisecond), float64(peak)/(1<<20))
			// All of it at once would be some gigabytes.
			if peak > 400<<20 {
				t.Errorf("at most %.1f MiB were resident, want less than 400", float64(peak)/(1<<20))
			}
			d.signal(t, syscall.SIGTERM)
			wantExit(t, d, 0)
		})
	}
}

// TestReportOfAKilledDaemon kills the daemon while a report is being written. The
// next one removes what is left of it, and makes the report.
func TestReportOfAKilledDaemon(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "results", nil)
	out := t.TempDir()
	source := pgtest.URL(t)
	env := func(sleep int) []string {
		return []string{"WARREN_AMQP_URL=" + v.URL, "WARREN_QUEUES=reports", "WARREN_QUEUE_REPORTS_PROCESSOR=report",
			"WARREN_QUEUE_REPORTS_REPORTS=" + sqlFolder(t, map[string]string{"slow": fmt.Sprintf("SELECT g AS n, pg_sleep(CASE WHEN g = 20000 THEN %d ELSE 0 END)::text AS s FROM generate_series(1, 40000) g", sleep)}),
			"WARREN_QUEUE_REPORTS_OUTPUT=" + out, "WARREN_DATABASE_URL=" + source, "WARREN_MIGRATE=true"}
	}
	d := start(t, env(600)...)
	v.Publish(t, "reports", amqp091.Publishing{MessageId: "r-1", ReplyTo: "results", Body: []byte(`{"report": "slow"}`)})
	files := func() (names []string) {
		entries, err := os.ReadDir(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil && info.Size() > 0 {
				names = append(names, e.Name())
			}
		}
		return names
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return len(files()) == 1 }, "some of the report has been written")
	d.signal(t, syscall.SIGKILL)
	if left := files(); len(left) != 1 || !strings.HasPrefix(left[0], ".") {
		t.Fatalf("there are %q, want only what is hidden", left)
	}
	start(t, env(0)...)
	var r made
	answer(t, v, "results", &r)
	if left := files(); r.Rows != 40000 || len(left) != 1 || left[0] != filepath.Base(r.Location) {
		t.Errorf("got %+v, and there are %q", r, left)
	}
}

// TestStatementTakesEffectOnce publishes a message twice. Both are answered.
func TestStatementTakesEffectOnce(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "results", nil)
	source := pgtest.URL(t)
	conn, err := pgx.Connect(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "CREATE TABLE counters (n int); INSERT INTO counters VALUES (0)"); err != nil {
		t.Fatal(err)
	}
	d := start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=chores", "WARREN_QUEUE_CHORES_PROCESSOR=sql",
		"WARREN_QUEUE_CHORES_STATEMENTS="+sqlFolder(t, map[string]string{"add": "-- param: n int\nUPDATE counters SET n = n + :n"}),
		"WARREN_DATABASE_URL="+source, "WARREN_MIGRATE=true")
	for range 2 {
		v.Publish(t, "chores", amqp091.Publishing{MessageId: "c-1", ReplyTo: "results", Body: []byte(`{"statement": "add", "params": {"n": 5}}`)})
		var r made
		answer(t, v, "results", &r)
		if r.Rows != 1 {
			t.Errorf("got %d rows, want 1", r.Rows)
		}
	}
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT n FROM counters").Scan(&n); err != nil || n != 5 {
		t.Errorf("got %d, %v, want 5", n, err)
	}
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
}
