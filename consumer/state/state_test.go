package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"go.uber.org/goleak"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/internal/logtest"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// each runs test with a Store of each kind of database, migrated.
func each(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Run("postgres", func(t *testing.T) { test(t, newStore(t, pgtest.URL(t), io.Discard)) })
	t.Run("sqlite", func(t *testing.T) { test(t, newStore(t, sqliteURL(t), io.Discard)) })
}

func sqliteURL(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "warren.db") }

func newStore(t testing.TB, url string, log io.Writer) *Store {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(log, nil))
	db, err := database.New(database.Config{URL: url}, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := New(db, 0, metricnoop.NewMeterProvider(), logger)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs s until the test, or end, ends it.
func (s *Store) run(t testing.TB) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	end = func() {
		cancel()
		<-ended
	}
	t.Cleanup(end)
	return end
}

type logBuffer = logtest.Buffer

func (s *Store) state(t testing.TB, id string) Message {
	t.Helper()
	m, _, err := s.State(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A life is a message's, with two attempts, of which the first is cut off once and begun
// again, in the order in which it happens.
func life(id string, at time.Time) []consumer.Transition {
	result := consumer.Result{ContentType: "application/json", Body: []byte(`{"ok": true}`)}
	all := []consumer.Transition{
		{State: consumer.Accepted, First: true},
		{State: consumer.Waiting, Order: 1, First: true, Due: at.Add(time.Minute)},
		{State: consumer.Processing, Order: 3, First: true, Attempt: 1},
		{State: consumer.Accepted, Order: 3, First: true},
		{State: consumer.Processing, Order: 3, First: true, Attempt: 1},
		{State: consumer.Processing, Order: 3, First: true, Attempt: 1, Percent: 40, Text: "half-way"},
		{State: consumer.Waiting, Order: 5, Attempt: 1, Error: "no", Due: at.Add(time.Hour)},
		{State: consumer.Processing, Order: 7, Attempt: 2},
		{State: consumer.Succeeded, Order: 10, Attempt: 2, Result: result},
	}
	for i := range all {
		all[i].Queue, all[i].MessageID, all[i].At = "orders", id, at.Add(time.Duration(i)*time.Millisecond)
		all[i].Redelivered = i > 3
	}
	return all
}

func TestStatesNeverMoveBackwards(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		at := time.Now().Truncate(time.Millisecond)
		for i := range 60 {
			id := fmt.Sprint("m-", i)
			all := life(id, at)
			n := 1 + i%len(all) // so far has it come
			want := all[n-1]
			for _, j := range rand.Perm(n) {
				if err := s.write(t.Context(), []row{s.rowOf(all[j])}); err != nil {
					t.Fatal(err)
				}
			}
			got := s.state(t, id)
			if got.State != want.State || got.Attempt != want.Attempt || got.Redelivered != want.Redelivered || got.Percent != want.Percent || got.Text != want.Text || got.Error != want.Error ||
				!got.At.Equal(want.At) || !got.Due.Equal(want.Due) || string(got.Result.Body) != string(want.Result.Body) || got.Queue != "orders" {
				t.Errorf("after %d transitions in some order: got %+v, want %+v", n, got, want)
			}
		}
	})
}

// TestStatesOfASecondLife puts a dead letter back, whose attempts begin anew, and
// repeats work that is done, whose result is not known any more.
func TestStatesOfASecondLife(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		at := time.Now()
		write := func(after time.Duration, tr consumer.Transition) Message {
			t.Helper()
			tr.Queue, tr.MessageID, tr.At = "orders", "m", at.Add(after)
			if err := s.write(t.Context(), []row{s.rowOf(tr)}); err != nil {
				t.Fatal(err)
			}
			return s.state(t, "m")
		}
		write(0, consumer.Transition{State: consumer.Dead, Order: 34, Attempt: 8, Reason: "exhausted", Error: "no"})
		if got := write(500*time.Millisecond, consumer.Transition{State: consumer.Processing, Order: 3, First: true}); got.State != consumer.Dead {
			t.Errorf("late news of the first life: got %s, want dead", got.State)
		}
		if got := write(2*time.Second, consumer.Transition{State: consumer.Processing, Order: 7}); got.State != consumer.Dead {
			t.Errorf("what no life begins with: got %s, want dead", got.State)
		}
		if got := write(2*time.Second, consumer.Transition{State: consumer.Processing, Order: 3, First: true, Attempt: 1}); got.State != consumer.Processing || got.Error != "" {
			t.Errorf("second life: got %s with the error %q, want processing", got.State, got.Error)
		}
		write(3*time.Second, consumer.Transition{State: consumer.Succeeded, Order: 6, Attempt: 1, Result: consumer.Result{Body: []byte("1")}})
		if got := write(8*time.Second, consumer.Transition{State: consumer.Accepted, First: true}); got.State != consumer.Succeeded || string(got.Result.Body) != "1" {
			t.Errorf("sent again after its success: got %s with the result %q, want succeeded with 1", got.State, got.Result.Body)
		}
		if got := write(9*time.Second, consumer.Transition{State: consumer.Succeeded, Order: 4}); got.State != consumer.Succeeded || string(got.Result.Body) != "1" {
			t.Errorf("after a repeat: got %s with the result %q, want succeeded with 1", got.State, got.Result.Body)
		}
		write(10*time.Second, consumer.Transition{State: consumer.Processing, Order: 3, First: true})
		write(11*time.Second, consumer.Transition{State: consumer.Dead, Order: 6})
		if got := write(13*time.Second, consumer.Transition{State: consumer.Accepted, First: true}); got.State != consumer.Accepted {
			t.Errorf("sent again after its death: got %s, want accepted", got.State)
		}
	})
}

// A message that is worked while its publisher still waits for the database is not back in
// its queue.
func TestAcceptedLate(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		sent := time.Now().Add(-time.Minute)
		dead := consumer.Transition{Queue: "orders", MessageID: "m", State: consumer.Dead, Order: 6, Attempt: 1, At: sent.Add(time.Second)}
		if err := s.write(t.Context(), []row{s.rowOf(dead)}); err != nil {
			t.Fatal(err)
		}
		if err := s.Accept(t.Context(), "orders", "m", sent); err != nil {
			t.Fatal(err)
		}
		if got := s.state(t, "m"); got.State != consumer.Dead {
			t.Errorf("got %s, want dead", got.State)
		}
		if err := s.Accept(t.Context(), "orders", "m", time.Now()); err != nil {
			t.Fatal(err)
		}
		if got := s.state(t, "m"); got.State != consumer.Accepted {
			t.Errorf("sent again: got %s, want accepted", got.State)
		}
	})
}

// TestTheRuleOfReplacement holds row.follows and the statement against each other, for
// a sample of all pairs of states.
func TestTheRuleOfReplacement(t *testing.T) {
	at := time.Now().UnixMilli()
	var some []row
	for _, state := range []consumer.State{consumer.Accepted, consumer.Waiting, consumer.Processing, consumer.Succeeded, consumer.Dead} {
		for _, ord := range []int{1, 3, 6} {
			for _, begins := range []bool{false, true} {
				for _, after := range []int64{0, 1, 1000, 1001} {
					some = append(some, row{Queue: "orders", State: state, Ord: ord, Begins: begins, UpdatedAt: at + after, ExpiresAt: at + 1e9})
				}
			}
		}
	}
	each(t, func(t *testing.T, s *Store) {
		var firsts, seconds []row
		for i := range 1500 {
			first, second := some[rand.IntN(len(some))], some[rand.IntN(len(some))]
			first.MessageID = fmt.Sprint(i)
			second.MessageID, second.Percent = first.MessageID, 1
			firsts, seconds = append(firsts, first), append(seconds, second)
		}
		for _, rows := range [][]row{firsts, seconds} {
			for batch := range slices.Chunk(rows, statementRows) {
				if err := s.write(t.Context(), batch); err != nil {
					t.Fatal(err)
				}
			}
		}
		var list string
		if err := s.db.QueryRow(t.Context(), database.Statement{
			PostgreSQL: "SELECT string_agg(message_id, ',') FROM warren.messages WHERE percent = 1",
			SQLite:     "SELECT group_concat(message_id, ',') FROM warren_messages WHERE percent = 1",
		}, nil, &list); err != nil {
			t.Fatal(err)
		}
		replaced := make(map[string]bool)
		for id := range strings.SplitSeq(list, ",") {
			replaced[id] = true
		}
		for i, second := range seconds {
			if got, want := replaced[second.MessageID], second.follows(firsts[i]); got != want {
				t.Fatalf("%+v after %+v: replaced in the database: %t, by follows: %t", second, firsts[i], got, want)
			}
		}
	})
}

// TestAForgedAttemptHarmsNobodyElse has a state that no column holds among others, and
// one that claims to come after all that its message will ever have.
func TestAForgedAttemptHarmsNobodyElse(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		at := time.Now()
		for i := range 40 {
			for _, tr := range life(fmt.Sprint("m-", i), at) {
				s.add(s.rowOf(tr))
			}
		}
		s.add(s.rowOf(consumer.Transition{Queue: "orders", MessageID: "m-20", State: consumer.Waiting, Attempt: math.MaxInt64, Order: math.MaxInt64, At: at, Due: at.Add(time.Hour), Error: "card declined"}))
		unheld := s.rowOf(consumer.Transition{Queue: "orders", MessageID: "z", At: at})
		unheld.Attempt, unheld.Result = 1<<40, hexBytes("x")
		unheld.MessageID = "m-10\x00" // which add has no part in
		s.add(unheld)
		s.writePending(t.Context(), writeTimeout)
		if len(s.pending) != 0 || s.fails != 0 {
			t.Errorf("%d rows are pending after %d failures, want none", len(s.pending), s.fails)
		}
		for i := range 40 {
			if m := s.state(t, fmt.Sprint("m-", i)); m.State != consumer.Succeeded && i != 20 {
				t.Errorf("message %d: got %q, want succeeded", i, m.State)
			}
		}
		later := life("m-20", at.Add(2*time.Second))
		s.add(s.rowOf(later[2]))
		s.writePending(t.Context(), writeTimeout)
		if m := s.state(t, "m-20"); m.State != consumer.Processing || m.Error != "" {
			t.Errorf("a message whose state was forged: got %q with the error %q, want processing", m.State, m.Error)
		}
	})
}

func TestStatesAreWrittenInTheBackground(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		const n = 2000
		end := s.run(t)
		at := time.Now()
		for i := range n {
			for _, tr := range life(fmt.Sprint("m-", i), at) {
				s.Observe(tr)
			}
			if i%400 == 399 {
				rabbittest.Eventually(t, 10*time.Second, func() bool { return len(s.transitions) == 0 }, "they are taken")
			}
		}
		count := database.Statement{
			PostgreSQL: "SELECT count(*) FROM warren.messages WHERE state = 'succeeded' AND attempt = 2",
			SQLite:     "SELECT count(*) FROM warren_messages WHERE state = 'succeeded' AND attempt = 2",
		}
		written := func() (got int) {
			if err := s.db.QueryRow(t.Context(), count, nil, &got); err != nil {
				t.Error(err)
			}
			return got
		}
		rabbittest.Eventually(t, 60*time.Second, func() bool { return written() == n }, "they are written")
		s.Observe(life("last", at)[8])
		end() // writes what is left
		if got := written(); got != n+1 {
			t.Errorf("got %d messages that have succeeded, want %d", got, n+1)
		}
		if got := s.bytes.Load(); got != 0 {
			t.Errorf("%d bytes of results count as pending, want 0", got)
		}
	})
}

func TestResultsOfAnyBytes(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		for i, body := range [][]byte{nil, {}, {0, 0xff, '"'}, bytes.Repeat([]byte("x"), maxResultBytes), bytes.Repeat([]byte("x"), maxResultBytes+1)} {
			id := fmt.Sprintf("\x00\xff\"%d", i)
			err := s.write(t.Context(), []row{s.rowOf(consumer.Transition{
				Queue: "orders", MessageID: id, State: consumer.Succeeded, Text: "\x00'", Error: "\xff", At: time.Now(),
				Result: consumer.Result{ContentType: "a\x00", Body: body},
			})})
			if err != nil {
				t.Fatal(err)
			}
			want := body
			if len(body) > maxResultBytes {
				want = nil
			}
			if got := s.state(t, id); !bytes.Equal(got.Result.Body, want) || got.ResultBytes != len(body) || got.Text != "\uFFFD'" || got.Error != "\uFFFD" {
				t.Errorf("%d: got %+.200v, want a result of %d bytes, %d of them kept", i, got, len(body), len(want))
			}
		}
		if _, known, err := s.State(t.Context(), "unknown", ""); known || err != nil {
			t.Errorf("an unknown message: got %t and %v, want false and nil", known, err)
		}
	})
}

func TestStateOfAnIDInTwoQueues(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		for i, queue := range []string{"a", "b"} {
			err := s.write(t.Context(), []row{s.rowOf(consumer.Transition{Queue: queue, MessageID: "m", State: consumer.Processing, Order: 3, At: time.Now().Add(time.Duration(i) * time.Second)})})
			if err != nil {
				t.Fatal(err)
			}
		}
		for asked, want := range map[string]string{"": "b", "a": "a", "b": "b"} {
			if got, known, err := s.State(t.Context(), "m", asked); got.Queue != want || !known || err != nil {
				t.Errorf("asked for queue %q: got %q (%t, %v), want %q", asked, got.Queue, known, err, want)
			}
		}
	})
}

func TestStatesExpire(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		now := time.Now()
		for _, tr := range []consumer.Transition{
			{MessageID: "old", State: consumer.Dead, At: now.Add(-8 * 24 * time.Hour)},
			{MessageID: "new", State: consumer.Dead, At: now.Add(-6 * 24 * time.Hour)},
			{MessageID: "due", State: consumer.Waiting, At: now.Add(-30 * 24 * time.Hour), Due: now},
		} {
			if err := s.write(t.Context(), []row{s.rowOf(tr)}); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := s.cleanOnce(t.Context(), now); n != 1 || err != nil {
			t.Errorf("deleted %d with %v, want 1", n, err)
		}
		for id, want := range map[string]bool{"old": false, "new": true, "due": true} {
			if _, known, err := s.State(t.Context(), id, ""); known != want || err != nil {
				t.Errorf("%s: known: %t (%v), want %t", id, known, err, want)
			}
		}
	})
}

// TestStoreWithoutItsDatabase stops the database for a while: nothing waits for it,
// the log says so once, and what has happened meanwhile is written afterwards.
func TestStoreWithoutItsDatabase(t *testing.T) {
	server := pgtest.Start(t)
	var log logBuffer
	s := newStore(t, server.URL(), &log)
	s.run(t)
	observe := func(id string) {
		for _, tr := range life(id, time.Now()) {
			s.Observe(tr)
		}
	}
	done := func(id string) func() bool {
		return func() bool {
			m, _, err := s.State(t.Context(), id, "")
			return err == nil && m.State == consumer.Succeeded
		}
	}
	observe("before")
	rabbittest.Eventually(t, 10*time.Second, done("before"), "the first is written")

	server.Stop()
	start := time.Now()
	for i := range 100 {
		observe(fmt.Sprint("meanwhile-", i))
	}
	if took := time.Since(start); took > rabbittest.Soon {
		t.Errorf("to observe 900 transitions took %v", took)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return strings.Contains(log.String(), "states of messages cannot be written") }, "the log says so")
	start = time.Now()
	if err := s.Accept(t.Context(), "orders", "m", start); err == nil || time.Since(start) > acceptTimeout+rabbittest.Soon {
		t.Errorf("Accept returned %v after %v, want an error within a second", err, time.Since(start))
	}
	server.Restart(t)
	rabbittest.Eventually(t, 20*time.Second, done("meanwhile-99"), "what happened meanwhile is written")
	rabbittest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(log.String(), "are written again") }, "the log says so")
	if got := strings.Count(log.String(), "states of messages"); got != 2 {
		t.Errorf("the log has %d lines about it, want 2:\n%s", got, log.String())
	}
}

// TestStatesThatComeTooFast has more come than is taken before Run begins.
func TestStatesThatComeTooFast(t *testing.T) {
	var log logBuffer
	s := newStore(t, sqliteURL(t), &log)
	for i := range cap(s.transitions) + 7 {
		s.Observe(consumer.Transition{Queue: "q", MessageID: fmt.Sprint(i), State: consumer.Processing, At: time.Now()})
	}
	s.run(t)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Contains(log.String(), "come faster than the database takes them") }, "the log says so")
	if !strings.Contains(log.String(), "dropped=7") {
		t.Errorf("the log is %q, want it to say that 7 are dropped", log.String())
	}
}

// TestStoreIsBounded observes far more than can wait.
func TestStoreIsBounded(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	log := slog.New(slog.DiscardHandler)
	db, err := database.New(database.Config{URL: "sqlite:" + t.TempDir() + "/none/such.db"}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := New(db, 0, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)), log)
	if err != nil {
		t.Fatal(err)
	}
	const n = 30_000
	result := consumer.Result{Body: make([]byte, 10<<10)}
	for i := range n {
		s.Observe(consumer.Transition{Queue: "q", MessageID: fmt.Sprint(i), State: consumer.Succeeded, At: time.Now(), Result: result})
		if i%4000 == 3999 { // as Run does, if the database never answers
			for len(s.transitions) > 0 {
				s.add(<-s.transitions)
			}
		}
	}
	var kept int
	for _, o := range s.pending {
		kept += len(o.Result)
	}
	if len(s.pending) > pendingRows || kept > pendingBytes || s.bytes.Load() > pendingBytes {
		t.Errorf("%d messages and %d bytes of results are pending (%d counted), want bounds", len(s.pending), kept, s.bytes.Load())
	}
	for range dropAfter {
		s.failed(errors.New("no database"))
	}
	if len(s.pending) != 0 {
		t.Errorf("%d messages are pending after %d failures, want none", len(s.pending), dropAfter)
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	m := all.ScopeMetrics[0].Metrics[0]
	dropped := m.Data.(metricdata.Sum[int64]).DataPoints[0].Value
	if m.Name != "warren.status.dropped" || dropped != int64(n-len(s.transitions)) {
		t.Errorf("%s is %d, want %d", m.Name, dropped, n-len(s.transitions))
	}
}
