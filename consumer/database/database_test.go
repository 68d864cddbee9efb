package database

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

func TestMain(m *testing.M) { rabbittest.Main(m) }

// each runs f as a subtest with the URL of a new PostgreSQL database, and with that
// of a new SQLite file.
func each(t *testing.T, f func(t *testing.T, url string)) {
	t.Run("postgres", func(t *testing.T) { f(t, pgtest.URL(t)) })
	t.Run("sqlite", func(t *testing.T) { f(t, sqliteURL(t)) })
}

func sqliteURL(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "warren.db") }

func newDatabase(t testing.TB, url string, log io.Writer) *Database {
	t.Helper()
	d, err := New(Config{URL: url}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// migrated is a database with Warren's tables and a table rows (id).
func migrated(t testing.TB, url string) *Database {
	t.Helper()
	d := newDatabase(t, url, io.Discard)
	if _, err := d.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.exec(t, "CREATE TABLE rows (id text)")
	return d
}

func (d *Database) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := d.write.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (d *Database) number(t testing.TB, query string) (n int) {
	t.Helper()
	if err := d.read.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// insert is a processor that inserts the message id.
func insert(ctx context.Context, d consumer.Delivery, scope *consumer.Scope) error {
	tx, err := scope.Tx(ctx)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO rows VALUES ($1)", d.MessageID)
	return err
}

func TestURLs(t *testing.T) {
	for _, test := range []struct{ url, name, fault string }{
		{url: "postgres://u:hunter2@db1:5433/shop", name: "database shop at db1:5433"},
		{url: "postgresql://db1/shop?sslmode=require", name: "database shop at db1:5432"},
		{url: "sqlite:/var/lib/warren/warren.db", name: "database /var/lib/warren/warren.db"},
		{url: "sqlite:///var/lib/warren/warren.db", name: "database /var/lib/warren/warren.db"},
		{url: "", fault: "is not the URL of a database"},
		{url: "mysql://u:hunter2@db1/shop", fault: "is not the URL of a database"},
		{url: "host=db1 password=hunter2", fault: "is not the URL of a database"},
		{url: "postgres://u:hunter2/@db1/shop", fault: "percent-encoded"},
		{url: "postgres://u:hunter2#x@db1/shop", fault: "percent-encoded"},
		{url: "postgres://u:hunter2?x@db1/shop", fault: "percent-encoded"},
		{url: "postgres://u:hunter2@db1/shop?sslmode=perhaps", fault: "sslmode"},
		{url: "postgres://u:hunter2@db1:port/shop", fault: "percent-encoded"},
		{url: "sqlite:", fault: "the path of a file"},
		{url: "sqlite::memory:", fault: "the path of a file"},
		{url: "sqlite:/tmp/x?mode=ro", fault: "without ? and #"},
	} {
		p, err := parse(test.url)
		switch {
		case err != nil && (test.fault == "" || !strings.Contains(err.Error(), test.fault)), err == nil && test.fault != "":
			t.Errorf("%q: got %v, want %q", test.url, err, test.fault)
		case err == nil && p.name != test.name:
			t.Errorf("%q: got %q, want %q", test.url, p.name, test.name)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

// Nothing that goes wrong with a database shows what its URL holds.
func TestNoErrorShowsThePassword(t *testing.T) {
	good, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	const secret = "correct-horse"
	for name, change := range map[string]func(u *url.URL){
		"refused password": func(u *url.URL) { u.User = url.UserPassword("warren", secret) },
		"no database":      func(u *url.URL) { u.Path = "/nowhere" },
		"no host":          func(u *url.URL) { u.Host = "nowhere.invalid"; u.User = url.UserPassword("warren", secret) },
		"no server":        func(u *url.URL) { u.Host = "127.0.0.1:1"; u.User = url.UserPassword("warren", secret) },
		"no tables":        func(*url.URL) {},
	} {
		u := *good
		change(&u)
		var log strings.Builder
		d := newDatabase(t, u.String(), &log)
		_, _, errDone := d.Done(t.Context(), consumer.InboxKey{})
		var errMigrate error
		if name != "no tables" {
			_, errMigrate = d.Migrate(t.Context())
		}
		all := errors.Join(errDone, d.Check(t.Context()), errMigrate).Error() + log.String()
		if strings.Contains(all, secret) || strings.Contains(all, pgtest.Password) {
			t.Errorf("%s: the password is shown: %s", name, all)
		}
		if !strings.Contains(all, d.Name()) || strings.Count(log.String(), "the database cannot be used") != 1 {
			t.Errorf("%s: got %s\nwant %s, and one line of the log", name, all, d.Name())
		}
	}
}

func TestMigrateSideBySide(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		d := newDatabase(t, url, io.Discard)
		if err := d.Check(t.Context()); !errors.Is(err, ErrTables) || !strings.Contains(err.Error(), "run warren migrate") {
			t.Errorf("before: got %v, want that the tables are missing and what to run", err)
		}
		var migrating sync.WaitGroup
		var mu sync.Mutex
		total := 0
		for range 8 {
			migrating.Go(func() {
				n, err := newDatabase(t, url, io.Discard).Migrate(t.Context())
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				total += n
				mu.Unlock()
			})
		}
		migrating.Wait()
		if err := d.Check(t.Context()); err != nil {
			t.Errorf("after: %v", err)
		}
		if total != 4 {
			t.Errorf("got %d migrations made by all together, want 4", total)
		}
		d.exec(t, "UPDATE "+d.dsn.dialect.versions+" SET version_id = 0")
		if err := d.Check(t.Context()); !errors.Is(err, ErrTables) || !strings.Contains(err.Error(), "at version 0, this program needs 4") {
			t.Errorf("with older tables: got %v", err)
		}
	})
}

// An upgrade keeps what the tables hold, and a daemon of before goes on with those that it
// finds then.
func TestMigrateFromTheTablesOfBefore(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		d := newDatabase(t, url, io.Discard)
		unlock, err := d.lockMigrations(t.Context()) // and make the schema
		if err != nil {
			t.Fatal(err)
		}
		unlock()
		p, err := d.provider()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.UpTo(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		messages, inbox := "warren.messages", "warren.inbox"
		if d.dsn.dialect == sqlite {
			messages, inbox = "warren_messages", "warren_inbox"
		}
		// As a daemon of before writes it.
		writeState := func(id, state string) {
			t.Helper()
			d.exec(t, `INSERT INTO `+messages+` (message_id, queue, state, attempt, updated_at, due_at, percent, progress, reason, error, result_type, result, result_bytes,
				ord, begins, expires_at) VALUES ($1, 'orders', $2, 1, CURRENT_TIMESTAMP, NULL, 0, '', '', 'no', '', NULL, 0, 3, true, CURRENT_TIMESTAMP)
				ON CONFLICT (message_id, queue) DO UPDATE SET state = excluded.state`, id, state)
		}
		const n = 50
		for i := range n {
			writeState(fmt.Sprint(i), "dead")
			d.exec(t, "INSERT INTO "+inbox+" (queue, message_id, digest) VALUES ('orders', $1, $2)", fmt.Sprint(i), []byte("digest"))
			d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, body) VALUES ('out', $1)", fmt.Sprint(i))
		}
		if err := d.Check(t.Context()); !errors.Is(err, ErrTables) {
			t.Errorf("before: got %v, want %v", err, ErrTables)
		}
		if made, err := d.Migrate(t.Context()); made != 2 || err != nil {
			t.Fatalf("got %d migrations and error %v, want 2", made, err)
		}
		writeState("0", "succeeded")
		writeState("new", "succeeded")
		if err := d.Check(t.Context()); err != nil {
			t.Errorf("after: %v", err)
		}
		for query, want := range map[string]int{
			messages + " WHERE state = 'dead' AND error = 'no' AND NOT redelivered": n - 1, messages + " WHERE state = 'succeeded' AND NOT redelivered": 2,
			inbox: n, d.outbox() + " WHERE body IS NOT NULL AND routing_key = 'out'": n,
		} {
			if got := d.number(t, "SELECT count(*) FROM "+query); got != want {
				t.Errorf("%s: got %d rows, want %d", query, got, want)
			}
		}
	})
}

func TestTheTransactionEndsWithTheAttempt(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		fault := errors.New("a fault")
		for _, test := range []struct {
			err  error
			want int
		}{{nil, 1}, {fault, 1}, {nil, 2}} {
			_, err := consumertest.RunDatabase(t.Context(), d, consumer.ProcessorFunc(func(ctx context.Context, m consumer.Delivery, scope *consumer.Scope) error {
				return errors.Join(insert(ctx, m, scope), test.err)
			}), consumer.Delivery{MessageID: "a"})
			if !errors.Is(err, test.err) {
				t.Errorf("got %v, want %v", err, test.err)
			}
			if got := d.number(t, "SELECT count(*) FROM rows"); got != test.want {
				t.Errorf("after an attempt that returned %v: got %d rows, want %d", test.err, got, test.want)
			}
		}
	})
}

func TestWithoutADatabase(t *testing.T) {
	_, err := consumertest.Run(t.Context(), consumer.ProcessorFunc(insert), consumer.Delivery{})
	if err == nil || !strings.Contains(err.Error(), "set WARREN_DATABASE_URL") {
		t.Errorf("got %v, want what to set", err)
	}
}
