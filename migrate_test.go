package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// A daemon without its tables says what to run, and what it says helps.
func TestMigrate(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	for _, url := range []string{pgtest.URL(t), "sqlite:" + filepath.Join(t.TempDir(), "warren.db")} {
		env := []string{
			"WARREN_AMQP_URL=" + v.URL, "WARREN_ADMIN_ADDR=", "WARREN_QUEUES=log", "WARREN_QUEUE_LOG_PROCESSOR=log",
			"WARREN_DATABASE_URL=" + url,
		}
		_, stderr, status := output(t, warren(t, env))
		if status != 1 || !strings.Contains(stderr, "run warren migrate, or set WARREN_MIGRATE=true") || strings.Contains(stderr, pgtest.Password) {
			t.Errorf("before: got exit status %d and\n%s\nwant 1, and what to run", status, stderr)
		}
		stdout, _, status := output(t, warren(t, env, "check"))
		if status != 1 || !strings.Contains(stdout, "FAULT  database: the tables are not as they should be: database ") {
			t.Errorf("check, before: got exit status %d and\n%s", status, stdout)
		}
		for _, want := range []string{"migrations made: 4\n", "migrations made: 0\n"} {
			stdout, stderr, status := output(t, warren(t, []string{"WARREN_DATABASE_URL=" + url}, "migrate"))
			if status != 0 || !strings.HasSuffix(stdout, want) || strings.Contains(stdout, pgtest.Password) {
				t.Errorf("got exit status %d, %q and %q, want 0 and %q", status, stdout, stderr, want)
			}
		}
		start(t, env...).signal(t, syscall.SIGTERM)
		if stdout, _, status := output(t, warren(t, env, "check")); status != 0 || !strings.Contains(stdout, "Warren's tables are there") {
			t.Errorf("check, after: got exit status %d and\n%s", status, stdout)
		}
	}
}

func TestMigrateAtTheStart(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	d := start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=log", "WARREN_QUEUE_LOG_PROCESSOR=log",
		"WARREN_DATABASE_URL="+pgtest.URL(t), "WARREN_MIGRATE=true")
	if d.signal(t, syscall.SIGTERM); !strings.Contains(d.log.String(), "tables migrated") || d.ProcessState.ExitCode() != 0 {
		t.Errorf("got %v and the log\n%s", d.ProcessState, d.log.String())
	}
}

// A daemon that starts before its database waits for it, and can be stopped.
func TestStartBeforeTheDatabase(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	s := pgtest.Start(t)
	s.Stop()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"WARREN_AMQP_URL=" + v.URL, "WARREN_ADMIN_ADDR=", "WARREN_LOG_FORMAT=text", "WARREN_QUEUES=log", "WARREN_QUEUE_LOG_PROCESSOR=log",
		"WARREN_DATABASE_URL=" + s.URL(), "WARREN_MIGRATE=true"}
	for _, comesUp := range []bool{false, true} {
		d := &process{Cmd: exec.CommandContext(t.Context(), path), ended: make(chan struct{})}
		d.Env, d.Stderr = env, &d.log
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			_ = d.Wait()
			close(d.ended)
		}()
		logged := func(text string) func() bool { return func() bool { return strings.Contains(d.log.String(), text) } }
		rabbittest.Eventually(t, 20*time.Second, logged("the database cannot be used"), "the daemon says that the database is away")
		if comesUp {
			s.Restart(t)
			rabbittest.Eventually(t, 20*time.Second, logged("msg=consuming"), "the daemon consumes")
		}
		took := d.signal(t, syscall.SIGTERM)
		if took > rabbittest.Soon || d.ProcessState.ExitCode() != 0 {
			t.Errorf("ended after %v with %v, want soon and with 0", took, d.ProcessState)
		}
		if n := strings.Count(d.log.String(), "the database cannot be used"); n != 1 {
			t.Errorf("the log says %d times that the database is away, want once:\n%s", n, d.log.String())
		}
	}
}

func TestFaultsOfTheDatabaseURL(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"migrate"}} {
		_, stderr, status := output(t, warren(t, []string{
			"WARREN_QUEUES=log", "WARREN_QUEUE_LOG_PROCESSOR=log", "WARREN_ADMIN_ADDR=", "WARREN_DATABASE_URL=postgres://u:hunter2/@h/d",
		}, args...))
		if status != 1 || !strings.Contains(stderr, "WARREN_DATABASE_URL is not the URL of a database") || strings.Contains(stderr, "hunter2") {
			t.Errorf("warren %q: got exit status %d and %q", args, status, stderr)
		}
	}
	if _, stderr, status := output(t, warren(t, nil, "migrate")); status != 1 || !strings.Contains(stderr, "WARREN_DATABASE_URL is not set") {
		t.Errorf("got exit status %d and %q", status, stderr)
	}
}
