package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
	"github.com/warrenmq/warren/processors"
)

// check and config look at the variables of every processor, and make none of what these
// name; nor do they remove what a killed daemon has left.
func TestCheckAndConfigChangeNothing(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, content := range map[string]string{"sql/one.sql": "SELECT 1", "templates/mail.txt": "Hello", "reports/.warren-X.draft": "left"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{
		"TMPDIR=" + root,
		"WARREN_AMQP_URL=amqp://127.0.0.1:1",
		"WARREN_DATABASE_URL=sqlite:" + root + "/warren.db",
		"WARREN_MIGRATE=true",
		"WARREN_QUEUES=" + strings.Join(append(processors.Standard().Names(), "made", "mailed"), ","),
		"WARREN_QUEUE_COMMAND_PROCESSOR=command",
		"WARREN_QUEUE_COMMAND_COMMAND=true",
		"WARREN_QUEUE_EMAIL_PROCESSOR=email",
		"WARREN_QUEUE_EMAIL_MAILDIR=" + root + "/mail",
		"WARREN_QUEUE_EMAIL_FROM=shop@example.com",
		"WARREN_QUEUE_EMAIL_TEMPLATES=" + root + "/templates",
		"WARREN_QUEUE_LOG_PROCESSOR=log",
		"WARREN_QUEUE_MADE_PROCESSOR=report",
		"WARREN_QUEUE_MADE_REPORTS=" + root + "/sql",
		"WARREN_QUEUE_MADE_SOURCE_URL=sqlite:" + root + "/shop.db",
		"WARREN_QUEUE_MADE_OUTPUT=" + root + "/new/reports",
		"WARREN_QUEUE_MADE_MAILDIR=" + root + "/new/mail",
		"WARREN_QUEUE_MADE_FROM=shop@example.com",
		"WARREN_QUEUE_MAILED_PROCESSOR=email",
		"WARREN_QUEUE_MAILED_SMTP_URL=smtp://127.0.0.1:1",
		"WARREN_QUEUE_MAILED_FROM=shop@example.com",
		"WARREN_QUEUE_REPORT_PROCESSOR=report",
		"WARREN_QUEUE_REPORT_REPORTS=" + root + "/sql",
		"WARREN_QUEUE_REPORT_OUTPUT=" + root + "/reports",
		"WARREN_QUEUE_SQL_PROCESSOR=sql",
		"WARREN_QUEUE_SQL_STATEMENTS=" + root + "/sql",
		"WARREN_QUEUE_WEBHOOK_PROCESSOR=webhook",
		"WARREN_QUEUE_WEBHOOK_URL=http://127.0.0.1:1",
	}
	before := tree(t, root)
	if stdout, stderr, status := output(t, warren(t, env, "config")); status != 0 {
		t.Fatalf("config: exit status %d, %s\n%s", status, stderr, stdout)
	}
	if got := tree(t, root); !slices.Equal(got, before) {
		t.Errorf("config has made %q of %q", got, before)
	}
	stdout, stderr, status := output(t, warren(t, env, "check"))
	if status != 1 || !strings.Contains(stdout, "FAULT  node 127.0.0.1:1") || !strings.Contains(stdout, "warren.db is not there; run warren migrate") {
		t.Errorf("check: exit status %d, %s\n%s\nwant that neither the broker nor the database is there", status, stderr, stdout)
	}
	if got := tree(t, root); !slices.Equal(got, before) {
		t.Errorf("check has made %q of %q", got, before)
	}

	if _, stderr, status := output(t, warren(t, env, "migrate")); status != 0 {
		t.Fatalf("migrate: exit status %d, %s", status, stderr)
	}
	before = tree(t, root)
	if stdout, _, _ = output(t, warren(t, env, "check")); !strings.Contains(stdout, "warren.db: Warren's tables are there") {
		t.Errorf("check: %s\nwant that the tables are there", stdout)
	}
	if got := tree(t, root); !slices.Equal(got, before) {
		t.Errorf("check has made %q of %q", got, before)
	}
}

// Nor are queues, exchanges and tables made, where there are a broker and a database to make
// them in.
func TestCheckMakesNoQueuesAndTables(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	url := pgtest.URL(t)
	env := append(commandQueue(v, "orders", "cat"), "WARREN_DATABASE_URL="+url, "WARREN_MIGRATE=true",
		"WARREN_SCHEDULES=nightly", "WARREN_SCHEDULE_NIGHTLY_EVERY=24h", "WARREN_SCHEDULE_NIGHTLY_QUEUE=orders")
	made := func() string {
		t.Helper()
		all, err := v.Node.Eval(fmt.Sprintf("V = <<%q>>, {rabbit_amqqueue:list(V), rabbit_exchange:list(V), rabbit_binding:list(V), rabbit_policy:list(V)}", v.Name))
		if err != nil {
			t.Fatal(err)
		}
		db, err := database.Open(url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		var tables int
		if err := db.QueryRowContext(t.Context(), "SELECT (SELECT count(*) FROM pg_tables) + (SELECT count(*) FROM pg_namespace)").Scan(&tables); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s\n%d tables and schemas", all, tables)
	}
	before := made()
	for _, command := range []string{"config", "check"} {
		stdout, stderr, _ := output(t, warren(t, env, command))
		if command == "check" && !strings.Contains(stdout, "ok     queue orders: is missing; warren declares it when it starts") {
			t.Errorf("check: got %s\n%s\nwant that the queue is missing", stderr, stdout)
		}
		if got := made(); got != before {
			t.Errorf("%s has made something: there is\n%s\nand was\n%s", command, got, before)
		}
	}
}

// tree is every file and folder below root, with its size and when it was changed.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out = append(out, path+" "+info.Mode().String()+" "+info.ModTime().String())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
