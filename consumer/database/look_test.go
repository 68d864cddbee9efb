package database

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// leading is the relay of d until the test ends. It publishes nothing by itself.
func (d *Database) leading(t *testing.T) *relay {
	t.Helper()
	r, err := d.lead(t.Context(), progress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// relaying is a relay at work until stop, which returns the message ids of what it has
// published.
func (d *Database) relaying(t *testing.T, publish func(consumer.Message) error) (stop func() []string) {
	var mu sync.Mutex
	var published []string
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Run(ctx, progress, func(batch []consumer.Message) []error {
			errs := make([]error, len(batch))
			for i, m := range batch {
				if errs[i] = publish(m); errs[i] == nil {
					mu.Lock()
					published = append(published, m.MessageID)
					mu.Unlock()
				}
			}
			return errs
		})
	}()
	stop = func() []string {
		cancel()
		<-ended
		return published
	}
	t.Cleanup(func() { stop() })
	return stop
}

// A look reads a few rows, however many there are: new ones, or those behind one that was
// refused.
func TestALookReadsFewRows(t *testing.T) {
	t.Parallel()
	d := migrated(t, pgtest.URL(t))
	r := d.leading(t)
	read := func() (top node, plan string) {
		err := r.conn.QueryRowContext(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+postgres.fresh, `[["", "busy"]]`, batchRows, batchBytes, longestBody, "", "", 0).Scan(&plan)
		if err != nil {
			t.Fatal(err)
		}
		var explained []struct{ Plan node }
		if err := json.Unmarshal([]byte(plan), &explained); err != nil {
			t.Fatal(err)
		}
		return explained[0].Plan, plan
	}
	for state, rows := range map[string]string{
		"without statistics": "SELECT 'good' || i % 20, '{}' FROM generate_series(1, 20000) i",
		"behind":             "SELECT key, '{}' FROM generate_series(1, 20000) i, (VALUES ('held'), ('busy')) AS k (key)",
		"before many":        "SELECT CASE WHEN i <= 400 THEN 'few' || i ELSE 'many' END, '{}' FROM generate_series(1, 40000) i",
	} {
		d.exec(t, "TRUNCATE warren.outbox")
		d.exec(t, "INSERT INTO warren.outbox (routing_key, attempts, retry_at) VALUES ('held', 1, now() + interval '1 h')")
		d.exec(t, "INSERT INTO warren.outbox (routing_key, body) "+rows)
		d.exec(t, "INSERT INTO warren.outbox (routing_key, body) SELECT 'last', '{}' FROM generate_series(1, 600)")
		for range 2 {
			// Of an index, too: for each row, or target, its root, its leaf and one between.
			if top, plan := read(); int(top.Rows) != batchRows || top.read() > 5*batchRows || top.Pages > 20*batchRows || strings.Contains(plan, `"JIT"`) {
				t.Errorf("%s: %d rows and %d pages were read for %v\n%s", state, top.read(), top.Pages, top.Rows, plan)
			}
			d.exec(t, "ANALYZE warren.outbox")
			state = "with statistics, " + state
		}
	}
}

// A node of a plan of PostgreSQL.
type node struct {
	Relation string  `json:"Relation Name"`
	Rows     float64 `json:"Actual Rows"`
	Loops    float64 `json:"Actual Loops"`
	Removed  float64 `json:"Rows Removed by Filter"`
	Pages    int     `json:"Shared Hit Blocks"` // with those below
	Plans    []node
}

// read is how many rows of tables were read.
func (n node) read() int {
	sum := 0
	if n.Relation != "" {
		sum = int((n.Rows + n.Removed) * n.Loops)
	}
	for _, p := range n.Plans {
		sum += p.read()
	}
	return sum
}

// SQLite uses indexes, too.
func TestALookOfSQLiteUsesIndexes(t *testing.T) {
	d := migrated(t, sqliteURL(t))
	rows, err := d.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+sqlite.fresh, "[]", batchRows, batchBytes, longestBody, "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(detail, "SCAN o") || strings.HasPrefix(detail, "SCAN warren_outbox") {
			t.Errorf("the plan reads all rows: %s", detail)
		}
	}
}

// The database cuts a batch: what is not wanted is not sent. A body that no broker takes
// is not even read.
func TestABatchHasFewBytes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		for i := range 9 {
			d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, body) VALUES ($1, '0123456789')", fmt.Sprint("q", i%2))
			d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, body_bytes) VALUES ($1, $2)", fmt.Sprint("q", i%2), []byte("0123456789"))
		}
		for _, test := range []struct{ most, longest, rows, body int }{
			{most: 1, longest: 10, rows: 1, body: 10}, {most: 40, longest: 10, rows: 4, body: 10}, {most: 41, longest: 9, rows: 5},
		} {
			rows, err := d.read.QueryContext(t.Context(), d.dsn.dialect.fresh, "[]", batchRows, test.most, test.longest, "", "", 0)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for ; rows.Next(); n++ {
				if o, err := scan(rows); err != nil || len(o.message.Body) != test.body {
					t.Errorf("%+v: got a body of %d bytes, error %v", test, len(o.message.Body), err)
				}
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil || n != test.rows {
				t.Errorf("%+v: got %d rows, error %v", test, n, err)
			}
		}
	})
}

// A target with more bytes than a batch has holds up none that comes before it, also if its
// messages are older.
func TestManyBytesHoldUpNoOther(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		for _, key := range []string{"big", "big", "a-small"} {
			d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, body_bytes) VALUES ($1, $2)", key, make([]byte, batchBytes))
		}
		d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, body) VALUES ('last', '')")
		r := d.leading(t)
		var got []string
		for at := (place{}); len(got) < 3; {
			batch, end, err := r.read(t.Context(), d.dsn.dialect.fresh, batchRows, at.exchange, at.key, at.id)
			if err != nil || len(batch) == 0 {
				t.Fatalf("got %d rows after %v, error %v", len(batch), got, err)
			}
			for _, o := range batch {
				got = append(got, o.message.RoutingKey)
			}
			at = end
		}
		if want := []string{"a-small", "big", "last"}; !slices.Equal(got, want) {
			t.Errorf("read %v, want %v: each has its turn", got, want)
		}
	})
}

// Those that were refused are tried in turn, the one that has waited longest first.
func TestWhatWasRefusedIsTriedInTurn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		ago := map[*dialect]string{postgres: "now() - $1 * interval '1 s'", sqlite: "unixepoch() - $1"}[d.dsn.dialect]
		for i := range 20 {
			d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, attempts, retry_at) VALUES ('gone-' || "+fmt.Sprint(i)+", 10, "+ago+")", 100+i)
		}
		r := d.leading(t)
		suspects, _, err := r.read(t.Context(), d.dsn.dialect.refused, suspectsAtOnce)
		if err != nil || len(suspects) != suspectsAtOnce {
			t.Fatalf("got %d, error %v, want %d", len(suspects), err, suspectsAtOnce)
		}
		for _, o := range suspects {
			if o.id <= 20-suspectsAtOnce {
				t.Errorf("%s is tried before others that have waited longer", o.message.RoutingKey)
			}
		}
	})
}

// What an operator has locked, and not committed yet, holds up no other message, and is
// published once.
func TestWhatAnOperatorHasLockedHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	d := migrated(t, pgtest.URL(t))
	d.exec(t, "INSERT INTO warren.outbox (routing_key, message_id, attempts, retry_at) VALUES ('missing', 'refused', 5, now())")
	d.exec(t, "INSERT INTO warren.outbox (routing_key, message_id) VALUES ('q', 'locked')")
	for range suspectsAtOnce { // as many as are tried at once of what was refused
		d.exec(t, "INSERT INTO warren.outbox (routing_key, message_id, retry_at) SELECT 'back-' || count(*), 'locked', now() - interval '1 h' FROM warren.outbox")
	}
	tx, err := d.write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "UPDATE warren.outbox SET retry_at = retry_at"); err != nil {
		t.Fatal(err)
	}
	d.exec(t, "INSERT INTO warren.outbox (routing_key, message_id, retry_at) VALUES ('free', 'free', now())")
	var log logBuffer
	stop := newDatabase(t, d.dsn.config.ConnString(), &log).relaying(t, func(m consumer.Message) error {
		if m.MessageID == "refused" {
			return errors.New("no queue takes it")
		}
		return nil
	})
	const locked = suspectsAtOnce + 2
	want := append(slices.Repeat([]string{"locked"}, locked-1), "free")
	for i := range 5 {
		id := fmt.Sprint(i)
		want = append(want, id)
		d.exec(t, "INSERT INTO warren.outbox (routing_key, message_id) VALUES ($1, $2)", fmt.Sprint("q", i%2), id)
		rabbittest.Eventually(t, 0, func() bool { return d.pending(t) == locked }, "the others are published and deleted")
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 0, func() bool {
		return d.number(t, "SELECT coalesce(max(attempts), 0) FROM warren.outbox") >= 6 && d.pending(t) == 1
	},
		"then they are deleted and marked")
	if got := stop(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) || log.String() != "" {
		t.Errorf("published %v, want %v; the log has\n%s", got, want, log.String())
	}
}

// What cannot even be read is refused as what the broker refuses: it holds back those of its
// own target.
func TestWhatCannotBeReadHoldsBackItsTargetOnly(t *testing.T) {
	t.Parallel()
	d := migrated(t, pgtest.URL(t))
	const insert = "INSERT INTO warren.outbox (routing_key, message_id, body, headers) VALUES "
	d.exec(t, insert+"('deep', 'deep-1', '', '{}'), ('deep', 'deep-2', '', ('{\"a\":' || repeat('[', 10001) || repeat(']', 10001) || '}')::jsonb), ('deep', 'deep-3', '', '{}')")
	d.exec(t, insert+"('long', 'long', repeat('x', $1), '{}'), ('other', 'other', '', '{}')", longestBody+1)
	stop := d.relaying(t, func(consumer.Message) error { return nil })
	rabbittest.Eventually(t, 0, func() bool {
		return d.pending(t) == 3 && d.number(t, "SELECT count(*) FROM warren.outbox WHERE error IS NOT NULL") == 2
	}, "the good ones are published")
	for id, want := range map[string]string{"deep-2": "its headers cannot be read", "long": "its body has 134217729 bytes, at most 134217728 are published; keep it elsewhere"} {
		if d.number(t, "SELECT count(*) FROM warren.outbox WHERE message_id = '"+id+"' AND error LIKE '"+want+"%'") != 1 {
			t.Errorf("the error of %s does not begin with %q", id, want)
		}
	}
	d.exec(t, "DELETE FROM warren.outbox WHERE message_id = 'long'")
	d.exec(t, "UPDATE warren.outbox SET headers = '{}', retry_at = now() WHERE message_id = 'deep-2'")
	rabbittest.Eventually(t, 0, func() bool { return d.pending(t) == 0 }, "it is published, and what it held back")
	got := slices.DeleteFunc(stop(), func(id string) bool { return id == "other" })
	if want := []string{"deep-1", "deep-2", "deep-3"}; !slices.Equal(got, want) {
		t.Errorf("published %v, want %v", got, want)
	}
}
