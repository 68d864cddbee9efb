package sql

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/processors/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A bench is a database with tables of Warren's and of a shop, and a processor.
type bench struct {
	t   *testing.T
	url string
	db  *database.Database
	p   consumer.Processor
}

func newBench(t *testing.T, url string, statements map[string]string) *bench {
	t.Helper()
	dir := t.TempDir()
	for name, content := range statements {
		if err := os.WriteFile(filepath.Join(dir, name+".sql"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Statements: dir}
	p, err := cfg.Open(registry.Queue{Name: "chores", Concurrency: 8, DatabaseURL: url}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.New(database.Config{URL: url}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &bench{t, url, db, p}
}

func (b *bench) run(body string) (string, error) {
	b.t.Helper()
	answer, err := consumertest.RunDatabase(b.t.Context(), b.db, b.p, consumer.Delivery{Queue: "chores", MessageID: "m1", Attempt: 1, Body: []byte(body)})
	return string(answer.Body), err
}

// The database parses what each statement names, and executes none.
func TestCheckParsesEveryStatement(t *testing.T) {
	for name, url := range map[string]string{"postgres": pgtest.URL(t), "sqlite": "sqlite:" + t.TempDir() + "/warren.db"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, url, map[string]string{"add": "-- param: sku text\nINSERT INTO stock (sku) VALUES (:sku)"})
			dir := t.TempDir()
			check := func() (string, error) {
				cfg := Config{Statements: dir}
				return cfg.Check(t.Context(), registry.Queue{Name: "chores", DatabaseURL: url})
			}
			if err := os.WriteFile(filepath.Join(dir, "add.sql"), []byte("-- param: sku text\nINSERT INTO stock (sku) VALUES (:sku)"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := check(); err == nil || !strings.Contains(err.Error(), "statement add: ") || !strings.Contains(err.Error(), "stock") {
				t.Errorf("without its table: got error %v, want that of the statement", err)
			}
			b.execute("CREATE TABLE stock (sku text)")
			if found, err := check(); err != nil || !strings.HasSuffix(found, "statement names: add") {
				t.Errorf("got %q and error %v, want that all is known", found, err)
			}
		})
	}
}

// execute has the database execute a statement beside the processor.
func (b *bench) execute(statement string) {
	b.t.Helper()
	db, err := database.Open(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(b.t.Context(), statement); err != nil {
		b.t.Fatalf("%s: %v", statement, err)
	}
}

func (b *bench) number(query string) (n int) {
	b.t.Helper()
	db, err := database.Open(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(b.t.Context(), query).Scan(&n); err != nil {
		b.t.Fatalf("%s: %v", query, err)
	}
	return n
}

func each(t *testing.T, f func(t *testing.T, url string)) {
	t.Run("postgres", func(t *testing.T) { f(t, pgtest.URL(t)) })
	t.Run("sqlite", func(t *testing.T) { f(t, "sqlite:"+filepath.Join(t.TempDir(), "warren.db")) })
}

func (b *bench) check(body, verdict string, texts ...string) {
	b.t.Helper()
	_, err := b.run(body)
	if got := consumertest.Verdict(err); got != verdict {
		b.t.Errorf("%s: got %s (%v), want %s", body, got, err, verdict)
	}
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			b.t.Errorf("%s: got %v\nwant %q in it", body, err, text)
		}
	}
}

var statements = map[string]string{
	"add":    "-- param: n int\n-- param: at timestamp = null\nINSERT INTO rows (n, at) VALUES (:n, :at)",
	"expire": "-- param: before timestamp\nDELETE FROM rows WHERE at < :before",
	"syntax": "DELETE FORM rows",
	"table":  "DELETE FROM nowhere",
}

func TestStatements(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		b := newBench(t, url, statements)
		b.execute("CREATE TABLE rows (n int UNIQUE, at " + map[bool]string{true: "TIMESTAMP", false: "timestamptz"}[strings.HasPrefix(url, "sqlite:")] + ")")
		for body, want := range map[string]string{
			`{"statement": "add", "params": {"n": 1, "at": "2026-01-01T00:00:00Z"}}`:        `{"rows":1}`,
			`{"statement": "add", "params": {"n": 2, "at": "2026-03-01T00:30:00.5+01:00"}}`: `{"rows":1}`,
			`{"statement": "add", "params": {"n": 3}}`:                                      `{"rows":1}`,
			`{"statement": "expire", "params": {"before": "1999-12-31T00:00:00Z"}}`:         `{"rows":0}`,
		} {
			if got, err := b.run(body); err != nil || got != want {
				t.Errorf("%s: got %s, %v, want %s", body, got, err, want)
			}
		}
		if got, err := b.run(`{"statement": "expire", "params": {"before": "2026-02-28T23:30:00Z"}}`); err != nil || got != `{"rows":1}` {
			t.Errorf("got %s, %v, want the older one to have been deleted", got, err)
		}
		if got := b.number("SELECT count(*) FROM rows"); got != 2 {
			t.Errorf("got %d rows, want 2", got)
		}
		b.check(`{"statement": "ad"}`, "dead", `there is no statement "ad"; there are: add, expire, syntax, table`)
		b.check(`{"statement": "expire", "params": {"n": 1}}`, "dead", "params.before is missing", "params.n is unknown", "before timestamp")
		b.check(`{"statement": "expire", "parameters": {}}`, "dead", `"parameters"`, "statement and params")
		b.check("{\"statement\": \"add\", \"params\": {\"n\": \"Gr\xfc\xdfe\"}}", "dead", "not UTF-8")
		b.check(`{"statement": "syntax"}`, "dead", "statement syntax: ", "syntax error")
		b.check(`{"statement": "table"}`, "dead", "statement table: ", "nowhere")
		b.check(`{"statement": "add", "params": {"n": 2}}`, "dead", "statement add: ", "constraint")
	})
}

// Nothing of an attempt that fails lasts, and the database is not to blame for what
// is the statement's.
func TestTimeouts(t *testing.T) {
	const slowSQLite = "-- timeout: 200ms\nINSERT INTO rows (n) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
	const slowPostgres = "-- timeout: 200ms\nINSERT INTO rows (n) SELECT length(pg_sleep(60)::text)"
	each(t, func(t *testing.T, url string) {
		slow := slowPostgres
		if strings.HasPrefix(url, "sqlite:") {
			slow = slowSQLite
		}
		b := newBench(t, url, map[string]string{"slow": slow, "slower": strings.Replace(slow, "200ms", "2m", 1)})
		b.execute("CREATE TABLE rows (n int)")
		b.check(`{"statement": "slow"}`, "retry", "statement slow: ", "it took longer than its timeout of 200ms")

		ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, consumer.ErrTimeout) // to begin the transaction, too
		defer cancel()
		_, err := consumertest.RunDatabase(ctx, b.db, b.p, consumer.Delivery{Body: []byte(`{"statement": "slower"}`)})
		if got := consumertest.Verdict(err); got != "retry" || !strings.Contains(err.Error(), consumer.ErrTimeout.Error()) {
			t.Errorf("got %s (%v), want that the attempt's time was over", got, err)
		}
		if reason := b.db.Reason(); reason != "" {
			t.Errorf("the database is said to be unusable: %s", reason)
		}
		if got := b.number("SELECT count(*) FROM rows"); got != 0 {
			t.Errorf("got %d rows, want none", got)
		}
	})
}

func TestDatabaseThatIsAway(t *testing.T) {
	server := pgtest.Start(t)
	b := newBench(t, server.URL(), map[string]string{"kill": "SELECT pg_terminate_backend(pg_backend_pid())", "one": "SELECT 1"})
	b.check(`{"statement": "kill"}`, "unavailable", "statement kill: ")
	server.Kill()
	b.check(`{"statement": "one"}`, "unavailable", consumer.ErrDatabase.Error(), "database postgres at ")
	server.Restart(t)
	if _, err := b.run(`{"statement": "one"}`); err != nil {
		t.Error(err)
	}
}

// Another process that writes to the SQLite file is waited for, and is no fault of the
// message.
func TestBusyWriter(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "warren.db")
	b := newBench(t, url, map[string]string{"add": "INSERT INTO rows (n) VALUES (1)"})
	b.execute("CREATE TABLE rows (n int)")
	other, err := database.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.BeginTx(t.Context(), nil) // which locks out all others
	if err != nil {
		t.Fatal(err)
	}
	b.check(`{"statement": "add"}`, "unavailable", consumer.ErrDatabase.Error(), "SQLITE_BUSY")
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if got, err := b.run(`{"statement": "add"}`); err != nil || got != `{"rows":1}` {
		t.Errorf("got %s, %v, want one row", got, err)
	}
}

func TestFaultsOfConfig(t *testing.T) {
	err := (&Config{Statements: "/nonexistent"}).Validate(registry.Queue{Name: "chores", Concurrency: 1})
	for _, want := range []string{"there is no database: set WARREN_DATABASE_URL", "STATEMENTS: ", "/nonexistent"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
