package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer"
)

const (
	// relayLock is the advisory lock of PostgreSQL that the relay holds.
	relayLock = 0x77617272656e02
	// A batch ends with so many rows, or so many bytes.
	batchRows  = 500
	batchBytes = 4 << 20
	// listenFor bounds how long the relay relies on being notified; SQLite cannot
	// notify, and is polled.
	listenFor  = time.Second
	pollSQLite = 200 * time.Millisecond
	// maxRetry is the longest wait until a message is offered again that the broker
	// has refused.
	maxRetry = time.Minute
	// settleTimeout bounds how long a daemon that is stopping takes to delete what
	// it has published.
	settleTimeout = 5 * time.Second
	// relayTimeout is how long the relay waits for PostgreSQL.
	relayTimeout = 30 * time.Second
	// suspectsAtOnce is how many messages that were refused before are offered at
	// once; each may have to wait for the broker's answer.
	suspectsAtOnce = 16
)

// Run publishes what is in the outbox, if no other process does, and cleans the
// inbox. It blocks until ctx ends; all that it started has ended then.
func (d *Database) Run(ctx context.Context, publish func([]consumer.Message) []error) {
	var cleaning sync.WaitGroup
	defer cleaning.Wait()
	cleaning.Go(func() { d.clean(ctx) })
	for ctx.Err() == nil {
		pauses := retry.WithCappedDuration(3*time.Second, retry.NewExponential(200*time.Millisecond))
		for worked := false; !worked && ctx.Err() == nil; {
			worked = d.relay(ctx, publish)
			pause, _ := pauses.Next()
			sleep(ctx, pause)
		}
	}
}

// relay publishes as the one relay of the database until ctx ends or the database
// cannot be used. It tells whether it got anything done.
func (d *Database) relay(ctx context.Context, publish func([]consumer.Message) []error) (worked bool) {
	r, err := d.lead(ctx)
	if d.usable(ctx, "become the relay of the outbox", err) != nil {
		return false
	}
	defer r.close()
	for ctx.Err() == nil {
		batch, err := r.next(ctx)
		if d.usable(ctx, "read the outbox", err) != nil {
			return worked
		}
		if len(batch) == 0 {
			err = r.wait(ctx)
		} else {
			err = r.settle(ctx, batch, offer(batch, publish))
		}
		if d.usable(ctx, "work the outbox", err) != nil {
			return worked
		}
		worked = true
	}
	return worked
}

// A relay is the one process that publishes from the outbox of a database.
type relay struct {
	d    *Database
	db   querier
	conn *sql.Conn // of PostgreSQL: holds the lock, and listens
	file *os.File  // of SQLite: the lock
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// lead blocks until no other process is the relay, or ctx ends.
func (d *Database) lead(ctx context.Context) (*relay, error) {
	r := &relay{d: d, db: d.write}
	if d.dsn.dialect == postgres {
		conn, err := d.write.Conn(ctx)
		if err != nil {
			return nil, err
		}
		r.db, r.conn = conn, conn
	}
	for {
		locked, err := r.tryLock(ctx)
		if locked && err == nil {
			return r, nil
		}
		if err == nil {
			d.answered()
			if sleep(ctx, lockPoll) {
				continue
			}
			err = context.Cause(ctx)
		}
		r.close()
		return nil, err
	}
}

func (r *relay) tryLock(ctx context.Context) (bool, error) {
	if r.conn == nil {
		var err error
		r.file, err = tryLockFile(r.d.dsn.path + "-relay")
		return r.file != nil, err
	}
	ctx, cancel := r.soon(ctx)
	defer cancel()
	var locked bool
	err := r.conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1)", int64(relayLock)).Scan(&locked)
	if locked {
		// The server is to notice soon when this machine is gone, and give the lock to
		// another.
		_, err = r.conn.ExecContext(ctx, "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; LISTEN warren_outbox")
	}
	return locked, err
}

// soon returns a context for statements that PostgreSQL answers soon, or not at all
// any more. On SQLite, they wait for whoever is writing.
func (r *relay) soon(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.conn == nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, relayTimeout)
}

// close lets another process be the relay.
func (r *relay) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
	if r.conn != nil {
		// The connection does not go back to the pool, with its lock and what it
		// listens for.
		_ = r.conn.Raw(func(any) error { return driver.ErrBadConn })
		_ = r.conn.Close()
	}
}

// wait blocks until there may be something in the outbox, or ctx ends.
func (r *relay) wait(ctx context.Context) error {
	if r.conn == nil {
		sleep(ctx, pollSQLite)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, listenFor)
	defer cancel()
	return r.conn.Raw(func(c any) error {
		conn := c.(*stdlib.Conn).Conn()
		_, err := conn.WaitForNotification(ctx)
		cancel()
		for err == nil { // what was heard already, it needs no more than one look
			_, err = conn.WaitForNotification(ctx)
		}
		if conn.IsClosed() {
			return err
		}
		return nil
	})
}

// An outgoing is a row of the outbox.
type outgoing struct {
	id       int64
	attempts int // in vain
	message  consumer.Message
}

// next reads the rows to publish next, in their order: of a target with a message
// that was refused, only that, and only when its wait is over.
func (r *relay) next(ctx context.Context) ([]outgoing, error) {
	ctx, cancel := r.soon(ctx)
	defer cancel()
	rows, err := r.db.QueryContext(ctx, r.d.dsn.dialect.next, batchRows)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var batch []outgoing
	for bytes := 0; bytes < batchBytes && rows.Next(); {
		o, err := scan(rows)
		if err != nil {
			return nil, err
		}
		bytes += len(o.message.Body)
		batch = append(batch, o)
	}
	return batch, errors.Join(rows.Err(), rows.Close())
}

func scan(rows *sql.Rows) (outgoing, error) {
	var o outgoing
	var text sql.NullString
	var bytes []byte
	var expiration int64
	var headers string
	m := &o.message
	err := rows.Scan(&o.id, &o.attempts, &m.Exchange, &m.RoutingKey, &text, &bytes, &m.MessageID, &m.ContentType, &m.ContentEncoding,
		&m.CorrelationID, &m.ReplyTo, &m.Type, &m.AppID, &m.Priority, &expiration, &headers)
	if err != nil {
		return o, err
	}
	m.Body = bytes
	if text.Valid {
		m.Body = []byte(text.String)
	}
	m.Expiration = time.Duration(expiration) * time.Millisecond
	m.Headers, err = parseHeaders(headers)
	return o, err
}

// parseHeaders reads a JSON object. Whole numbers are int64, others float64.
func parseHeaders(text string) (map[string]any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var headers map[string]any
	err := d.Decode(&headers)
	numbers(headers)
	return headers, err
}

// numbers returns v with numbers in place of what JSON has for them.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String() // larger than any number of AMQP
	case map[string]any:
		for name, e := range v {
			v[name] = numbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = numbers(e)
		}
	}
	return v
}

// offer has a batch published, and returns what came of each row. Those that were
// refused before are offered each by itself: they may be refused again.
func offer(batch []outgoing, publish func([]consumer.Message) []error) []error {
	errs := make([]error, len(batch))
	var fresh []consumer.Message
	var at []int
	for i, o := range batch {
		if o.attempts == 0 {
			fresh, at = append(fresh, o.message), append(at, i)
		}
	}
	if len(fresh) > 0 {
		for n, err := range publish(fresh) {
			errs[at[n]] = err
		}
	}
	slots := make(chan struct{}, suspectsAtOnce)
	var suspects sync.WaitGroup
	for i, o := range batch {
		if o.attempts > 0 {
			slots <- struct{}{}
			suspects.Go(func() {
				errs[i] = publish([]consumer.Message{o.message})[0]
				<-slots
			})
		}
	}
	suspects.Wait()
	return errs
}

// settle deletes the rows that were published, and marks, of each target, the first
// one that was refused: it holds the others back.
func (r *relay) settle(ctx context.Context, batch []outgoing, errs []error) error {
	ctx, cancel := lingering(ctx, settleTimeout)
	defer cancel()
	ctx, cancel = r.soon(ctx)
	defer cancel()
	type target struct{ exchange, key string }
	refused := make(map[target]bool)
	var published []int64
	var failed error
	for i, o := range batch {
		t := target{o.message.Exchange, o.message.RoutingKey}
		switch {
		case errs[i] == nil:
			published = append(published, o.id)
			if o.attempts > 0 {
				r.logOf(o).Info("message of the outbox published after all", "attempt", o.attempts+1)
			}
		case !errors.Is(errs[i], consumer.ErrBroker) && !refused[t]:
			refused[t] = true
			wait := min(time.Second<<min(o.attempts, 10), maxRetry)
			if o.attempts == 0 {
				r.logOf(o).Error("message of the outbox not published, it is tried again for ever; those after it with the same exchange and routing key wait", "error", errs[i])
			}
			_, err := r.db.ExecContext(ctx, r.d.dsn.dialect.fail, o.id, errs[i].Error(), wait.Seconds())
			failed = errors.Join(failed, err)
		}
	}
	if len(published) > 0 {
		ids, err := json.Marshal(published)
		if err == nil {
			_, err = r.db.ExecContext(ctx, r.d.dsn.dialect.remove, string(ids))
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func (r *relay) logOf(o outgoing) *slog.Logger {
	m := o.message
	return r.d.log.With("id", o.id, "message_id", m.MessageID, "exchange", m.Exchange, "routing_key", m.RoutingKey)
}

// lingering returns a context that ends so long after ctx.
func lingering(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return longer, func() {
		stop()
		cancel()
	}
}
