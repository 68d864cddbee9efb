package report

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
	"github.com/warrenmq/warren/processors/registry"
)

func TestFaultsOfConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := reports(t, map[string]string{"one": "SELECT 1"})
	for _, test := range []struct {
		cfg  Config
		want []string
	}{
		{Config{}, []string{"REPORTS is not set", "SOURCE_URL is not set: set it, or WARREN_DATABASE_URL", "OUTPUT is not set"}},
		{Config{Reports: reports(t, map[string]string{"bad": "SELECT :x"}), SourceURL: "mysql://u:hunter2@db/x", Output: "ftp://u:hunter2@host/x", From: "nobody"},
			[]string{"REPORTS: ", "bad.sql:1: parameter :x is not declared", "SOURCE_URL is not the URL of a database", "OUTPUT begins with ftp://", "SMTP_URL", "FROM: "}},
		{Config{Reports: good, SourceURL: "sqlite:/x", Output: filepath.Join(file, "folder")}, []string{"OUTPUT: ", "not a directory", "may write to"}},
		{Config{Reports: good, SourceURL: "sqlite:/x", Output: "s3://name/folder"}, []string{"OUTPUT is not of the form s3://", "prefix"}},
		{Config{Reports: good, SourceURL: "sqlite:/x", Output: "s3://name?regoin=eu-west-1"}, []string{"OUTPUT ", "regoin", "region"}},
		{Config{Reports: good, SourceURL: "sqlite:/x", Output: "s3://key:hunter2@name"}, []string{"OUTPUT is not of the form s3://", "AWS_SECRET_ACCESS_KEY"}},
		{Config{Reports: good, SourceURL: "sqlite:/x", Output: "s3://name?endpoint=minio:9000"}, []string{"OUTPUT is not of the form", "endpoint=https://host:port"}},
		{Config{Reports: good, SourceURL: "sqlite:/x", Output: "file:///tmp"}, []string{"OUTPUT", "without file://"}},
	} {
		err := test.cfg.Validate(registry.Queue{Name: "reports", Concurrency: 1})
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: got %v\nwant %q in it", test.cfg, err, want)
			}
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

func TestWhatIsDead(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		out := t.TempDir()
		p := newProcessor(t, Config{
			Reports: reports(t, map[string]string{
				"sales":  "-- param: since date\n-- param: top int = 10\nSELECT :since AS since, :top AS top",
				"syntax": "SELECT 1 FORM here",
				"table":  "SELECT * FROM nowhere",
				"write":  writing(url),
				"double": "SELECT 1 AS a, 2 AS a",
			}), SourceURL: url, Output: out,
		})
		execute(t, url, "CREATE TABLE IF NOT EXISTS here (n int)")
		for body, want := range map[string][]string{
			`{"report": "sails"}`: {`there is no report "sails"`, "double, sales, syntax, table, write"},
			`{"report": "sales"}`: {"params.since is missing", "since date, top int = 10"},
			`{"report": "sales", "params": {"since": "soon", "x": 1}}`: {"params.since: it must be of type date", "params.x is unknown"},
			`{"report": "sales", "parms": {"since": "2026-01-01"}}`:    {`"parms"`, "report, format, params, mail"},
			`{"report": "syntax"}`:                                    {"report syntax: ", "syntax error"},
			`{"report": "table"}`:                                     {"report table: ", "nowhere"},
			`{"report": "write"}`:                                     {"report write: ", "reports only read", "sql"},
			`{"report": "double", "format": "json"}`:                  {"two columns are called a"},
			`{"report": "double", "format": "pdf"}`:                   {`format is "pdf"`, "csv, json, html or xlsx"},
			`{"report": "double", "mail": {"to": "ada@example.com"}}`: {"no report can be mailed", "SMTP_URL"},
			`report`: {"decode body"},
		} {
			_, err := process(t.Context(), p, body)
			check(t, err, "dead", want...)
		}
		isEmpty(t, out)
	})
}

// writing is a statement that begins as those do which read.
func writing(url string) string {
	if strings.HasPrefix(url, "sqlite:") {
		return "WITH new AS (SELECT 1) INSERT INTO here SELECT * FROM new RETURNING n"
	}
	return "WITH new AS (INSERT INTO here VALUES (1) RETURNING n) SELECT * FROM new"
}

// What acts beyond its transaction does not get as far as the database.
func TestReportThatDoesNotRead(t *testing.T) {
	for _, statement := range []string{
		"COPY (SELECT 1) TO PROGRAM 'touch /tmp/x'", "ATTACH '/tmp/x' AS x", "VACUUM INTO '/tmp/x'", "INSERT INTO here VALUES (1) RETURNING n",
		"DO $$ BEGIN END $$", "EXPLAIN ANALYZE DELETE FROM here", "PRAGMA journal_mode = DELETE", "SET work_mem = '1MB'", "CALL f()",
	} {
		cfg := Config{Reports: reports(t, map[string]string{"x": "-- A report.\n" + statement}), SourceURL: "postgres://x@localhost/x", Output: t.TempDir(), AttachmentMaxBytes: 1}
		err := cfg.Validate(registry.Queue{Name: "reports", Concurrency: 1})
		if err == nil || !strings.Contains(err.Error(), "x.sql:2: it begins with "+statement[:2]) || !strings.Contains(err.Error(), "SELECT, WITH, VALUES, TABLE") {
			t.Errorf("%s: got %v, want that it is refused", statement, err)
		}
	}
}

func TestWhatPostgresRefuses(t *testing.T) {
	source := pgtest.URL(t)
	out := t.TempDir()
	p := newProcessor(t, Config{
		Reports: reports(t, map[string]string{
			"zero":     "SELECT 1 / (3 - g) FROM generate_series(1, 5) g", // after two rows
			"nothing":  "SELECT FROM generate_series(1, 5)",
			"delete":   "WITH gone AS (DELETE FROM here RETURNING *) SELECT * FROM gone",
			"into":     "SELECT 1 AS one INTO other",
			"unlocked": "SELECT set_config('transaction_read_only', 'off', true), fail('40001')",
			"raise":    "SELECT fail('40001')",
			"deadlock": "SELECT fail('40P01')",
			"disk":     "SELECT fail('53100')",
			"slow":     "-- timeout: 200ms\nSELECT 1 UNION ALL SELECT length(pg_sleep(60)::text)",
		}), SourceURL: source, Output: out,
	})
	execute(t, source, `CREATE TABLE here (n int); CREATE FUNCTION fail(code text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'as asked for' USING ERRCODE = code; END $$`)
	for report, want := range map[string]struct {
		verdict string
		text    string
	}{
		"zero":     {"dead", "division by zero"},
		"nothing":  {"dead", "it returns no columns"},
		"delete":   {"dead", "reports only read"},
		"into":     {"dead", "reports only read"},
		"unlocked": {"retry", "read-write mode must be set before any query"},
		"raise":    {"retry", "as asked for (SQLSTATE 40001)"},
		"deadlock": {"retry", "as asked for (SQLSTATE 40P01)"},
		"disk":     {"unavailable", "as asked for (SQLSTATE 53100)"},
		"slow":     {"retry", "it took longer than its timeout of 200ms"},
	} {
		_, err := process(t.Context(), p, `{"report": "`+report+`"}`)
		check(t, err, want.verdict, "report "+report+": ", want.text)
	}
	isEmpty(t, out)
}

// The server does not go on when nobody waits any more.
func TestTimeoutOfTheAttempt(t *testing.T) {
	source := pgtest.URL(t)
	out := t.TempDir()
	p := newProcessor(t, Config{Reports: reports(t, map[string]string{"slow": "SELECT 'a slow one', pg_sleep(600)"}), SourceURL: source, Output: out})
	conn, err := pgx.Connect(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	running := func(want int) func() bool {
		return func() bool {
			var n int
			err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT ''a slow one%' AND state = 'active'").Scan(&n)
			return err == nil && n == want
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	failed := make(chan error, 1)
	go func() {
		_, err := process(ctx, p, `{"report": "slow"}`)
		failed <- err
	}()
	rabbittest.Eventually(t, 10*time.Second, running(1), "the server runs the query")
	cancel(consumer.ErrTimeout)
	check(t, <-failed, "retry", "report slow: ", consumer.ErrTimeout.Error())
	isEmpty(t, out)
	rabbittest.Eventually(t, 10*time.Second, running(0), "the server has ended the query")
}

func TestTimeoutOfSQLite(t *testing.T) {
	source := sqliteURL(t)
	execute(t, source, "CREATE TABLE here (n int)")
	out := t.TempDir()
	p := newProcessor(t, Config{
		Reports:   reports(t, map[string]string{"slow": "-- timeout: 200ms\nWITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) AS x FROM c"}),
		SourceURL: source, Output: out,
	})
	_, err := process(t.Context(), p, `{"report": "slow"}`)
	check(t, err, "retry", "it took longer than its timeout of 200ms")
	isEmpty(t, out)
}

func TestDatabaseThatIsAway(t *testing.T) {
	server := pgtest.Start(t)
	out := t.TempDir()
	p := newProcessor(t, Config{
		Reports: reports(t, map[string]string{"slow": "SELECT 'waiting', pg_sleep(60)", "one": "SELECT 1 AS one"}), SourceURL: server.URL(), Output: out,
	})
	made(t, p, `{"report": "one"}`)

	watch, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	outcome := make(chan error, 1)
	go func() {
		_, err := process(t.Context(), p, `{"report": "slow"}`)
		outcome <- err
	}()
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		var n int
		err := watch.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT ''waiting%' AND state = 'active'").Scan(&n)
		return err == nil && n == 1
	}, "the query is under way")
	server.Kill()
	check(t, <-outcome, "unavailable", "report slow: ")

	_, err = process(t.Context(), p, `{"report": "one"}`)
	check(t, err, "unavailable", "connection refused", "database postgres")
	if strings.Contains(err.Error(), pgtest.Password) {
		t.Errorf("the error shows the password: %v", err)
	}
	server.Restart(t)
	made(t, p, `{"report": "one"}`)

	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), "correct-horse")
	wrong := newProcessor(t, Config{Reports: reports(t, map[string]string{"one": "SELECT 1 AS one"}), SourceURL: u.String(), Output: out})
	_, err = process(t.Context(), wrong, `{"report": "one"}`)
	check(t, err, "unavailable", "password authentication failed")
	if strings.Contains(err.Error(), "correct-horse") {
		t.Errorf("the error shows the password: %v", err)
	}
}

// What a report may not read is the operator's to grant; the dead letter can then be
// replayed.
func TestMissingPermissionInTheDatabase(t *testing.T) {
	source := pgtest.URL(t)
	execute(t, source, `CREATE TABLE secrets (s text); DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'reader'`)
	u, err := url.Parse(source)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("reader", "reader")
	p := newProcessor(t, Config{Reports: reports(t, map[string]string{"secrets": "SELECT * FROM secrets"}), SourceURL: u.String(), Output: t.TempDir()})
	_, err = process(t.Context(), p, `{"report": "secrets"}`)
	check(t, err, "dead", "permission denied for table secrets")
}

func TestSQLiteFileThatIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.db")
	out := t.TempDir()
	p := newProcessor(t, Config{Reports: reports(t, map[string]string{"one": "SELECT 1 AS one"}), SourceURL: "sqlite:" + path, Output: out})
	_, err := process(t.Context(), p, `{"report": "one"}`)
	check(t, err, "unavailable", "unable to open database file")
	if _, err := os.Stat(path); err == nil {
		t.Error("a file was made")
	}
	isEmpty(t, out)
}

const manyRows = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000) SELECT n, 'a row that takes some place' AS filler FROM c"

// A small file system of its own is filled up.
func TestFullDisk(t *testing.T) {
	if !asRoot(t) {
		return
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	}()
	source := sqliteURL(t)
	execute(t, source, "CREATE TABLE here (n int)")
	p := newProcessor(t, Config{Reports: reports(t, map[string]string{"many": manyRows, "one": "SELECT 1 AS one"}), SourceURL: source, Output: dir})
	for name := range formats {
		_, err := process(t.Context(), p, `{"report": "many", "format": "`+name+`"}`)
		check(t, err, "unavailable", "report many: ", dir, "no space left on device")
		isEmpty(t, dir)
	}
	made(t, p, `{"report": "one"}`)
}

// asRoot tells whether the test may mount. If not, the test has been run by a process
// that may, in a namespace of its own.
func asRoot(t *testing.T) bool {
	t.Helper()
	if os.Getuid() == 0 {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a user namespace (if this machine allows none, run the test as root): %v\n%s", err, out)
	}
	return false
}

func TestFolderWithoutPermission(t *testing.T) {
	source := sqliteURL(t)
	execute(t, source, "CREATE TABLE here (n int)")
	dir := t.TempDir()
	p := newProcessor(t, Config{Reports: reports(t, map[string]string{"one": "SELECT 1 AS one"}), SourceURL: source, Output: dir})
	made(t, p, `{"report": "one"}`)
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Chmod(dir, 0o700) }()
	if os.Getuid() == 0 { // whom no permission stops: this thread does without
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Setfsuid(0) }()
	}
	_, err := process(t.Context(), p, `{"report": "one"}`)
	check(t, err, "retry", "create the file", dir, "permission denied")
}
