package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// outageLength is how long the database is away: much longer than all attempts that
// a message has would take if they were counted. WARREN_TEST_OUTAGE=60s sets it.
func outageLength(t *testing.T) time.Duration {
	length := 8 * time.Second
	if text := os.Getenv("WARREN_TEST_OUTAGE"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	return length
}

// While the database is away messages wait: none is dead, none is lost, none is
// worked twice, and the log says it once.
func TestTheDatabaseIsAway(t *testing.T) {
	s := pgtest.Start(t)
	t.Run("postgres", func(t *testing.T) {
		outageTest(t, s.URL(), func() { s.Stop() }, func() { s.Restart(t) })
	})
	t.Run("sqlite", func(t *testing.T) {
		url := sqliteURL(t)
		var other *sql.Tx // somebody who keeps it locked
		outageTest(t, url, func() {
			db := newDatabase(t, url, new(logBuffer))
			rabbittest.Eventually(t, rabbittest.Soon, func() (began bool) { // others write all the time
				var err error
				other, err = db.write.Begin()
				return err == nil
			}, "the database is locked")
		}, func() { other.Rollback() })
	})
}

func outageTest(t *testing.T, url string, begin, end func()) {
	const messages = 1000
	v := rabbittest.NewVhost(t)
	var log logBuffer
	d := migrated(t, url)
	db, err := New(Config{URL: url, Connections: 16}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	consume(t, v.URL, db, &log, func(ctx context.Context, m consumer.Delivery, scope *consumer.Scope) error {
		tx, err := scope.Tx(ctx)
		if err != nil {
			return consumer.Permanent(errors.New(err.Error())) // whatever the processor makes of it
		}
		if _, err = tx.ExecContext(ctx, "INSERT INTO rows VALUES ($1)", m.MessageID); err != nil {
			return consumer.Permanent(err)
		}
		return scope.Publish(ctx, consumer.Message{RoutingKey: "out", MessageID: m.MessageID})
	})
	v.Declare(t, "out", nil)
	v.PublishN(t, "work", messages/2, func(i int) amqp.Publishing { return message(fmt.Sprint(i), "") })
	rabbittest.Eventually(t, 30*time.Second, func() bool { return d.number(t, "SELECT count(*) FROM rows") > 20 }, "some are worked")
	begin()
	away := time.Now()
	v.PublishN(t, "work", messages/2, func(i int) amqp.Publishing { return message(fmt.Sprint(messages/2+i), "") })
	rabbittest.Eventually(t, 30*time.Second, func() bool { return db.Reason() != "" }, "the database is known to be away")
	<-time.After(time.Until(away.Add(outageLength(t))))
	end()
	rabbittest.Eventually(t, 60*time.Second, func() bool {
		return d.number(t, "SELECT count(*) FROM rows") >= messages && d.pending(t) == 0 && v.Ready(t, "out") >= messages
	}, "all are worked and published")
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "work")+v.Unacked(t, "work") == 0 }, "all is acknowledged")
	if n := d.number(t, "SELECT count(*) FROM rows"); n != messages {
		t.Errorf("got %d rows, want %d", n, messages)
	}
	if n := v.Ready(t, "work.dead"); n != 0 {
		t.Errorf("got %d dead letters, want none", n)
	}
	if db.Reason() != "" {
		t.Errorf("the database is still said to be away: %s", db.Reason())
	}
	var loud []string
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "the processor depends on looks down") {
			continue // and the queue is braked
		}
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") || strings.Contains(line, "can be used again") {
			loud = append(loud, line)
		}
	}
	// By turns: on a busy machine there may be a second outage.
	wrong := len(loud) == 0 || len(loud)%2 != 0
	for i, line := range loud {
		wrong = wrong || !strings.Contains(line, []string{"the database cannot be used", "the database can be used again"}[i%2])
	}
	if wrong {
		t.Errorf("the log says\n%s\nwant that the database cannot be used, and then that it can again", strings.Join(loud, ""))
	}
}

// A database that answers nothing any more is one that is away: an attempt is not
// made to wait for its own timeout.
func TestTheDatabaseIsStalled(t *testing.T) {
	good, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	migrated(t, good.String())
	p := rabbittest.NewProxy(t, good.Host)
	good.Host = p.Addr
	var log logBuffer
	d := newDatabase(t, good.String(), &log)
	if _, _, err := d.Done(t.Context(), consumer.InboxKey{}); err != nil {
		t.Fatal(err)
	}
	p.Stall(rabbittest.ToNode)
	begun := time.Now()
	_, _, err = d.Done(t.Context(), consumer.InboxKey{})
	if took := time.Since(begun); err == nil || took > statementTimeout+time.Minute || d.Reason() == "" {
		t.Errorf("got %v after %v, want an error within %v, and an outage", err, took, statementTimeout)
	}
	if _, err := d.cleanOnce(t.Context()); !errors.Is(err, consumer.ErrDatabase) {
		t.Errorf("cleaning: got %v, want an outage", err)
	}
}

// The backlog is measured while the inbox cannot be cleaned.
func TestTheBacklogIsMeasuredWhileCleaningIsHeldUp(t *testing.T) {
	t.Parallel()
	d := migrated(t, pgtest.URL(t))
	lock, err := d.write.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Rollback() }()
	if _, err := lock.Exec("LOCK TABLE warren.inbox"); err != nil {
		t.Fatal(err)
	}
	app := newDatabase(t, d.dsn.config.ConnString(), new(logBuffer))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() { defer close(ended); app.tend(ctx) }()
	rabbittest.Eventually(t, rabbittest.Soon, func() bool {
		return d.number(t, "SELECT count(*) FROM pg_locks WHERE relation = 'warren.inbox'::regclass AND NOT granted") > 0
	}, "the cleaning waits for the lock")
	d.exec(t, "INSERT INTO warren.outbox (routing_key) VALUES ('q')")
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { b := app.backlog.Load(); return b != nil && b.messages == 1 }, "the message is in the backlog")
	cancel()
	<-ended
}

// A commit has a time of its own: it is not cut short when its attempt ends, and one that is
// not answered costs the message no attempt.
func TestTheDatabaseIsStalledAtACommit(t *testing.T) {
	t.Parallel()
	good, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	direct := migrated(t, good.String())
	p := rabbittest.NewProxy(t, good.Host)
	good.Host = p.Addr
	d := newDatabase(t, good.String(), new(logBuffer))
	attempt, end := context.WithTimeout(t.Context(), 3*time.Minute)
	defer end()
	begin := func(id string) consumer.Transaction {
		tx, err := d.Begin(attempt, &consumer.InboxKey{Queue: "work", MessageID: id})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.SQL().ExecContext(attempt, "INSERT INTO rows VALUES ($1)", id); err != nil {
			t.Fatal(err)
		}
		return tx
	}

	tx := begin("not answered")
	p.Stall(rabbittest.ToNode)
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		t.Cleanup(cancel)
		return ctx
	}
	if err := tx.Commit(soon(), &consumer.Result{}); !errors.Is(err, consumer.ErrDatabase) || d.Reason() == "" {
		t.Errorf("a commit that is not answered: got %v, want an outage", err)
	}
	_ = tx.Rollback(soon()) // as far as there is anything left
	p.Cut()
	p.Restore(t)

	tx = begin("not rolled back")
	p.Stall(rabbittest.ToNode)
	if err := tx.Rollback(soon()); !errors.Is(err, consumer.ErrDatabase) {
		t.Errorf("a rollback that is not answered: got %v, want an outage", err)
	}
	p.Cut()
	p.Restore(t)

	tx = begin("late")
	over, cancel := context.WithCancel(t.Context())
	cancel() // as if another resource of the attempt had taken all of the time
	if err := errors.Join(tx.Commit(over, nil), tx.Rollback(over)); !errors.Is(err, context.Canceled) || errors.Is(err, consumer.ErrDatabase) {
		t.Errorf("a commit that has no time left: got %v, want an error that is not the database's", err)
	}

	tx = begin("answered late")
	p.Stall(rabbittest.FromNode)
	committed := make(chan error, 1)
	go func() { committed <- tx.Commit(t.Context(), nil) }()
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return direct.number(t, "SELECT count(*) FROM rows") == 1 }, "it is committed, which is not known yet")
	end()
	p.Restore(t)
	if err := <-committed; err != nil {
		t.Errorf("a commit whose attempt has ended meanwhile: got %v, want none", err)
	}
}

// A database that only reads, as a standby does that was not promoted, or one with a full
// disk, cannot be used, although the inbox can be asked: that it can be used again is said
// once it has been written to.
func TestTheDatabaseOnlyReads(t *testing.T) {
	t.Parallel()
	own := pgtest.URL(t)
	d := migrated(t, own)
	admin, err := d.write.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	readOnly := func(on bool) {
		for _, statement := range []string{
			fmt.Sprintf("ALTER DATABASE %s SET default_transaction_read_only = %t", d.dsn.config.Database, on),
			// What is connected is not told: it is lost, as in a failover.
			"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
		} {
			if _, err := admin.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
	}
	var log logBuffer
	app := newDatabase(t, own, &log)
	key := consumer.InboxKey{Queue: "work", MessageID: "1"}
	ask := func() bool {
		_, _, err := app.Done(t.Context(), key)
		return err == nil
	}
	begin := func() bool {
		tx, err := app.Begin(t.Context(), &key)
		if err == nil {
			err = tx.Rollback(t.Context())
		}
		return err == nil
	}
	readOnly(true)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return ask() && !begin() }, "it can be asked, and not be written to")
	begun := app.outage.Since()
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return time.Since(begun) > 2*app.outage.Least }, "the outage is not that of a moment")
	if !ask() || app.measure(t.Context()) == nil || app.Reason() == "" || !app.outage.Since().Equal(begun) {
		t.Errorf("the database that cannot be written to is said to be usable, since it can be asked; the log says\n%s", log.String())
	}
	readOnly(false)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return ask() && begin() && app.Reason() == "" }, "it can be used again")
}

// A server that answers nothing any more does not keep one who has migrated, whose connection
// is then closed, and the lock is free when the server finds out.
func TestAFrozenServerDoesNotHoldAMigration(t *testing.T) {
	good, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	p := rabbittest.NewProxy(t, good.Host)
	behind := *good
	behind.Host = p.Addr
	unlock, err := newDatabase(t, behind.String(), new(logBuffer)).lockMigrations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.Stall(rabbittest.ToNode)
	unlock()
	p.Cut()
	migrated(t, good.String()) // waits for the lock
}

// The daemon needs no more rights than docs/database.md says.
func TestRights(t *testing.T) {
	owner, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	d := migrated(t, owner.String())
	d.exec(t, "CREATE ROLE limited LOGIN PASSWORD 'limited'")
	d.exec(t, "GRANT USAGE ON SCHEMA warren TO limited")
	d.exec(t, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA warren TO limited")
	limited := *owner
	limited.User = url.UserPassword("limited", "limited")
	app := newDatabase(t, limited.String(), new(logBuffer))
	if err := app.Prepare(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	key := consumer.InboxKey{Queue: "q", MessageID: "a"}
	tx, err := app.Begin(t.Context(), &key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tx.Publish(t.Context(), consumer.Message{RoutingKey: "q", MessageID: "a"}), tx.Commit(t.Context(), &consumer.Result{})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, calls := make(chan struct{}), 0
	go func() {
		defer close(ended)
		app.Run(ctx, progress, func([]consumer.Message) []error {
			if calls++; calls == 1 {
				return []error{errors.New("refused")}
			}
			return []error{nil}
		})
	}()
	rabbittest.Eventually(t, 10*time.Second, func() bool { return d.pending(t) == 0 }, "the message is marked, published and deleted")
	cancel()
	<-ended
	_, done, err := app.Done(t.Context(), key)
	_, errClean := app.cleanOnce(t.Context())
	if !done || err != nil || errClean != nil {
		t.Errorf("got %v, %v and %v, want true and no error", done, err, errClean)
	}
}
