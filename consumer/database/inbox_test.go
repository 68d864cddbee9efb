package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// Repeats of a message are worked once, whether or not the processor uses the
// transaction; with another body, or without an id, it is another message.
func TestRepeatsAreAcknowledgedUnrun(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		v := rabbittest.NewVhost(t)
		d := migrated(t, url)
		var log logBuffer
		ran := make(chan string, 100)
		consume(t, v.URL, d, &log, func(ctx context.Context, m consumer.Delivery, scope *consumer.Scope) error {
			ran <- string(m.Body)
			scope.SetResult(consumer.Result{Body: []byte(fmt.Sprint("result ", len(ran)))})
			if strings.HasPrefix(string(m.Body), "tx") {
				return insert(ctx, m, scope)
			}
			return nil
		})
		v.Declare(t, "answers", nil)
		for _, body := range []string{"tx", "tx", "tx", "no", "no", "tx other", "anonymous", "anonymous"} {
			m := message("id of "+strings.Fields(body)[0], body)
			if body == "anonymous" {
				m.MessageId = ""
			}
			m.ReplyTo = "answers"
			before := v.Ready(t, "answers")
			v.Publish(t, "work", m)
			// The work is recorded after the answer, and acknowledged after both.
			rabbittest.Eventually(t, 10*time.Second, func() bool {
				return v.Ready(t, "answers") == before+1 && v.Ready(t, "work")+v.Unacked(t, "work") == 0
			}, "there is an answer, and the message is acknowledged")
		}
		close(ran)
		var got []string
		for body := range ran {
			got = append(got, body)
		}
		if want := "tx,no,tx other,anonymous,anonymous"; strings.Join(got, ",") != want {
			t.Errorf("got %q worked, want %q", got, want)
		}
		if n := d.number(t, "SELECT count(*) FROM rows"); n != 2 {
			t.Errorf("got %d rows, want 2", n)
		}
		var answers []string
		for _, a := range v.Drain(t, "answers") {
			answers = append(answers, string(a.Body))
		}
		// A repeat is answered like the first, as far as the transaction has kept it.
		if want := "result 1,result 1,result 1,result 2,,result 3,result 4,result 5"; strings.Join(answers, ",") != want {
			t.Errorf("got the answers %q, want %q", answers, want)
		}
		if n := strings.Count(log.String(), "repeat of work that the inbox knows"); n != 3 {
			t.Errorf("got %d lines of repeats, want 3", n)
		}
	})
}

// An attempt that fails leaves nothing in the inbox: the next is run.
func TestRetriesAreRun(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		v := rabbittest.NewVhost(t)
		d := migrated(t, url)
		var log logBuffer
		consume(t, v.URL, d, &log, func(ctx context.Context, m consumer.Delivery, scope *consumer.Scope) error {
			if err := insert(ctx, m, scope); err != nil {
				return err
			}
			if m.Attempt == 1 {
				return consumer.RetryAfter(fmt.Errorf("not yet"), 0)
			}
			return nil
		})
		v.Publish(t, "work", message("a", "a"))
		rabbittest.Eventually(t, 20*time.Second, func() bool { return d.number(t, "SELECT count(*) FROM rows") == 1 }, "the second attempt inserts")
	})
}

// TestMessagesWithoutAnIDStandApart works three of each kind, that are alike in all: each is
// run, retried and dead-lettered by itself, under an id of its own from its retry on.
func TestMessagesWithoutAnIDStandApart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		const n = 3
		v := rabbittest.NewVhost(t)
		d := migrated(t, url)
		var log logBuffer
		var mu sync.Mutex
		runs := make(map[string]int)                // by body and attempt
		ids := make(map[string]map[string]struct{}) // of later attempts, by body
		consume(t, v.URL, d, &log, func(_ context.Context, m consumer.Delivery, _ *consumer.Scope) error {
			mu.Lock()
			defer mu.Unlock()
			body := string(m.Body)
			runs[fmt.Sprint(body, " ", m.Attempt)]++
			if m.Attempt > 1 {
				if ids[body] == nil {
					ids[body] = make(map[string]struct{})
				}
				ids[body][m.MessageID] = struct{}{}
			}
			if body == "done" || body == "retried" && m.Attempt > 1 {
				return nil
			}
			return errors.New("no")
		})
		for range n {
			for _, body := range []string{"done", "retried", "dead"} {
				v.Publish(t, "work", message("", body))
			}
		}
		rabbittest.Eventually(t, time.Minute, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return runs["done 1"] == n && runs["retried 2"] == n && v.Ready(t, "work.dead") == n && v.Ready(t, "work")+v.Unacked(t, "work") == 0
		}, "all have ended")
		mu.Lock()
		defer mu.Unlock()
		want := map[string]int{"done 1": n, "retried 1": n, "retried 2": n, "dead 1": n, "dead 2": n, "dead 3": n}
		if !maps.Equal(runs, want) {
			t.Errorf("got the runs %v, want %v", runs, want)
		}
		if len(ids["retried"]) != n || len(ids["dead"]) != n {
			t.Errorf("got the ids %v, want %d of each", ids, n)
		}
		dead := make(map[string]struct{})
		for _, m := range v.Drain(t, "work.dead") {
			dead[m.MessageId] = struct{}{}
		}
		if !maps.Equal(dead, ids["dead"]) {
			t.Errorf("the dead letters have the ids %v, their attempts had %v", dead, ids["dead"])
		}
	})
}

// Of two workers that get a message at once, one waits for the other's commit, and
// does nothing.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		key := &consumer.InboxKey{Queue: "q", MessageID: "a"}
		first, err := d.Begin(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		go func() {
			_, err := newDatabase(t, url, new(logBuffer)).Begin(t.Context(), key)
			second <- err
		}()
		if d.dsn.dialect == postgres {
			rabbittest.Eventually(t, 10*time.Second, func() bool {
				return d.number(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == 1
			}, "the second waits for the first")
		}
		if err := first.Commit(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := <-second; !errors.Is(err, consumer.ErrDone) {
			t.Errorf("got %v for the second, want ErrDone", err)
		}
	})
}

func TestTheInboxIsCleaned(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		for i := range 3 * cleanBatch {
			if i%1000 == 0 {
				tx, err := d.write.Begin()
				if err != nil {
					t.Fatal(err)
				}
				for n := range 1000 {
					if _, err := tx.Exec(d.dsn.dialect.record, "q", fmt.Sprint(i+n), []byte{1}); err != nil {
						t.Fatal(err)
					}
				}
				if err := tx.Commit(); err != nil {
					t.Fatal(err)
				}
			}
		}
		age := "now() - interval '8 days'"
		if d.dsn.dialect == sqlite {
			age = "unixepoch() - 8 * 86400"
		}
		table := map[*dialect]string{postgres: "warren.inbox", sqlite: "warren_inbox"}[d.dsn.dialect]
		d.exec(t, "UPDATE "+table+" SET done_at = "+age+" WHERE message_id < '2'")
		old := d.number(t, "SELECT count(*) FROM "+table+" WHERE message_id < '2'")
		if old <= cleanBatch {
			t.Fatalf("%d old rows are too few for the test", old)
		}
		if n, err := d.cleanOnce(t.Context()); n != cleanBatch || err != nil {
			t.Errorf("got %d rows and %v, want a batch of %d", n, err, cleanBatch)
		}
		if n, err := d.cleanOnce(t.Context()); n != int64(old-cleanBatch) || err != nil {
			t.Errorf("got %d rows and %v, want the other %d", n, err, old-cleanBatch)
		}
		if got := d.number(t, "SELECT count(*) FROM "+table); got != 3*cleanBatch-old {
			t.Errorf("got %d rows left, want %d", got, 3*cleanBatch-old)
		}
	})
}

// A message-id that PostgreSQL cannot hold as text is no fault of the database, and is
// recognised.
func TestAnyMessageIDIsRecognised(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		for i, id := range []string{"a\x00b", "\xff", "\xfe", "", "ä"} {
			k := consumer.InboxKey{Queue: "work", MessageID: id, Digest: [16]byte{byte(i)}}
			if _, done, err := d.Done(t.Context(), k); done || err != nil {
				t.Errorf("%q: got %t and %v, want false", id, done, err)
			}
			tx, err := d.Begin(t.Context(), &k)
			if err != nil {
				t.Fatalf("%q: %v", id, err)
			}
			if err := tx.Commit(t.Context(), &consumer.Result{ContentType: "text/\x00", Body: []byte("\x00")}); err != nil {
				t.Fatalf("%q: %v", id, err)
			}
			if _, done, err := d.Done(t.Context(), k); !done || err != nil {
				t.Errorf("%q once it is done: got %t and %v, want true", id, done, err)
			}
			if err := d.Record(t.Context(), k); err != nil {
				t.Errorf("%q: %v", id, err)
			}
		}
		if d.Reason() != "" {
			t.Errorf("the database is said to be away: %s", d.Reason())
		}
	})
}

// Who knows the id of a message that Warren will publish, such as that of a schedule,
// cannot have it taken for a repeat: the broker checks the name that it comes under.
func TestAMessageSentInAdvanceSuppressesNothing(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	d := migrated(t, sqliteURL(t))
	ran := make(chan string, 10)
	consume(t, v.URL, d, new(logBuffer), func(_ context.Context, m consumer.Delivery, _ *consumer.Scope) error {
		ran <- m.UserID
		return nil
	})
	publish := func(user, want string) {
		t.Helper()
		m := message("nightly-1764115200", "{}")
		m.UserId = user
		v.Publish(t, "work", m)
		rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "work")+v.Unacked(t, "work") == 0 }, "it is acknowledged")
		got := "nothing"
		if len(ran) > 0 {
			got = "a message of " + <-ran
		}
		if got != want {
			t.Errorf("published as %q: ran %s, want %s", user, got, want)
		}
	}
	publish("", "a message of ")           // in advance
	publish("guest", "a message of guest") // the true one
	publish("guest", "nothing")            // its repeat
}

// What the database objects to is no outage.
func TestAValueThatTheDatabaseDoesNotTakeIsNoOutage(t *testing.T) {
	t.Parallel()
	d := migrated(t, pgtest.URL(t))
	var s string
	err := d.read.QueryRowContext(t.Context(), "SELECT $1::text", "a\x00").Scan(&s)
	if err = d.usable(t.Context(), "look into the inbox", err); err == nil || errors.Is(err, consumer.ErrDatabase) || d.Reason() != "" {
		t.Errorf("got %v, and the outage %q; want an error of the message alone", err, d.Reason())
	}
}

// An attempt that spends its time waiting for SQLite's one writer is not counted: none
// of these has a second.
func TestWaitingForTheWriterCostsNoAttempt(t *testing.T) {
	t.Parallel()
	// The last ones wait for longer than an attempt may take, which leaves a slow machine
	// thrice what the work of one takes.
	const n, work, timeout = 7, 2 * time.Second, 10 * time.Second
	v := rabbittest.NewVhost(t)
	d := migrated(t, sqliteURL(t))
	v.Declare(t, "work", workQueue)
	v.PublishN(t, "work", n, func(i int) amqp.Publishing { return message(fmt.Sprint(i), "") })
	p := consumer.ProcessorFunc(func(ctx context.Context, m consumer.Delivery, scope *consumer.Scope) error {
		if err := insert(ctx, m, scope); err != nil {
			return err
		}
		select { // writing all the while
		case <-time.After(work):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	var log logBuffer
	c, err := consumer.New(consumer.Config{
		Nodes: []string{v.URL}, Database: d,
		Queues: []consumer.Queue{{Name: "work", Processor: p, Concurrency: n, MaxAttempts: 1, Timeout: timeout, RetryMax: 4 * time.Second}},
	}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	rabbittest.Eventually(t, 20*time.Second, func() bool { return c.Status().Queues[0].Reason == "" }, "the queue is consumed")
	rabbittest.Eventually(t, 2*time.Minute, func() bool {
		return d.number(t, "SELECT count(*) FROM rows") == n || v.Ready(t, "work.dead") > 0
	}, "all are worked")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if dead := v.Ready(t, "work.dead"); dead != 0 {
		t.Errorf("got %d dead letters, want none; the log:\n%s", dead, log.String())
	}
}
