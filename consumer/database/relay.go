package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/internal/failpoint"
)

const (
	// relayLock is the advisory lock of PostgreSQL that the relay holds.
	relayLock = 0x77617272656e02
	// A batch ends with so many rows, or so many bytes.
	batchRows  = 500
	batchBytes = 4 << 20
	// longestBody is the most that a broker takes, unless it is set otherwise: RabbitMQ
	// before 4.0. What is longer is not read: it might take all memory.
	longestBody = 128 << 20
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
	// relayTimeout is how long the relay waits for the database.
	relayTimeout = 30 * time.Second
	// patience is how long the relay waits for the answers to what it has just offered
	// before it goes on with other targets.
	patience = time.Second
	// freshAtOnce and suspectsAtOnce are how many offers may be under way at once: of
	// new messages, and of those that were refused before, each by itself.
	freshAtOnce, suspectsAtOnce = 16, 8
)

// Run publishes what is in the outbox, if no other process does, and cleans the
// inbox. It blocks until ctx ends; all that it started has ended then. It calls
// progress at least every half minute, unless it is stuck.
func (d *Database) Run(ctx context.Context, progress func(), publish func([]consumer.Message) []error) {
	var tending sync.WaitGroup
	defer tending.Wait()
	tending.Go(func() { d.tend(ctx) })
	for ctx.Err() == nil {
		pauses := retry.WithCappedDuration(3*time.Second, retry.NewExponential(200*time.Millisecond))
		for worked := false; !worked && ctx.Err() == nil; {
			progress()
			worked = d.relay(ctx, progress, publish)
			pause, _ := pauses.Next()
			sleep(ctx, pause)
		}
	}
}

// relay publishes as the one relay of the database until ctx ends or the database
// cannot be used. It tells whether it got anything done.
func (d *Database) relay(ctx context.Context, progress func(), publish func([]consumer.Message) []error) (worked bool) {
	r, err := d.lead(ctx, progress)
	if d.usable(ctx, "become the relay of the outbox", err) != nil {
		return false
	}
	defer r.close()
	r.publish = publish
	for ctx.Err() == nil && err == nil {
		progress()
		if err = r.turn(ctx); d.usable(ctx, "work the outbox", err) == nil {
			worked = true
		}
	}
	// What is on offer is waited for, or a message might be offered twice at once.
	for r.underWay() > 0 {
		r.take(<-r.answers)
		progress()
	}
	if err == nil {
		_ = d.usable(ctx, "work the outbox", r.settle(ctx))
	}
	return worked
}

// A relay is the one process that publishes from the outbox of a database.
type relay struct {
	d        *Database
	db       querier
	conn     *sql.Conn // of PostgreSQL: holds the lock, and listens
	file     *os.File  // of SQLite: the lock
	progress func()
	publish  func([]consumer.Message) []error

	answers         chan offer
	answered        []offer            // not settled yet
	undeleted       map[int64]target   // published, but still there
	refused         map[target]refusal // not marked yet
	busy            map[target]bool    // on offer or not settled yet
	fresh, suspects int                // offers under way
	after           place              // where the next look begins
}

// A target is what the order of messages is kept for.
type target struct{ exchange, key string }

// A place is one in the order of targets, and of ids within each.
type place struct {
	target
	id int64
}

// An offer is some rows that the broker is asked to take, in their order, and what came
// of each.
type offer struct {
	rows    []outgoing
	suspect bool
	errs    []error
}

// A refusal is the first message of a target that was refused.
type refusal struct {
	outgoing
	reason error
}

func (r *relay) underWay() int { return r.fresh + r.suspects }

// turn reads what is to be published next, offers it and settles what the broker has
// answered. A target that takes its time holds up no other: it is left out until it has
// answered.
func (r *relay) turn(ctx context.Context) error {
	found := false
	if r.fresh < freshAtOnce {
		var err error
		if found, err = r.next(ctx); err != nil {
			return fmt.Errorf("read the outbox: %w", err)
		}
		r.progress()
	}
	r.gather(ctx)
	idle := !found && len(r.answered) == 0
	published := len(r.d.published)
	if err := r.settle(ctx); err != nil || !idle || len(r.d.published) < published {
		return err
	}
	return r.wait(ctx) // what is locked is settled after that
}

// next has the rows published that are next, if there are any: those that were refused
// before each by itself, since they may be refused again, and the new ones of some targets,
// those of the following ones the next time.
func (r *relay) next(ctx context.Context) (found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	suspects, _, err := r.read(ctx, r.d.dsn.dialect.refused, suspectsAtOnce-r.suspects)
	if err != nil {
		return false, err
	}
	for _, o := range suspects {
		r.start(offer{rows: []outgoing{o}, suspect: true})
	}
	fresh, end, err := r.read(ctx, r.d.dsn.dialect.fresh, batchRows, r.after.exchange, r.after.key, r.after.id)
	if err == nil && end == (place{}) && r.after != end { // that was the last of them
		fresh, end, err = r.read(ctx, r.d.dsn.dialect.fresh, batchRows, "", "", 0)
	}
	if err != nil {
		return false, err
	}
	r.after = end
	r.offer(fresh)
	return len(suspects)+len(fresh) > 0, nil
}

// offer has new rows published, each target by itself unless there are too many. Behind one
// that cannot be published, those of its target wait.
func (r *relay) offer(batch []outgoing) {
	groups := make([][]outgoing, freshAtOnce-r.fresh)
	group := make(map[target]int)
	held := make(map[target]bool)
	for _, o := range batch {
		t := o.target()
		if held[t] {
			continue
		}
		held[t] = o.fault != nil
		if _, there := group[t]; !there {
			group[t] = len(group) % len(groups)
		}
		groups[group[t]] = append(groups[group[t]], o)
	}
	for _, rows := range groups {
		if len(rows) > 0 {
			r.start(offer{rows: rows})
		}
	}
}

func (r *relay) start(o offer) {
	var messages []consumer.Message
	for _, row := range o.rows {
		if row.fault == nil {
			messages = append(messages, row.message)
		}
		r.busy[row.target()] = true
	}
	if o.suspect {
		r.suspects++
	} else {
		r.fresh++
	}
	go func() { // whom relay waits for
		var errs []error
		if len(messages) > 0 {
			errs = r.publish(messages)
		}
		for _, row := range o.rows {
			if row.fault != nil {
				o.errs = append(o.errs, row.fault)
				continue
			}
			o.errs, errs = append(o.errs, errs[0]), errs[1:]
		}
		r.answers <- o
	}()
}

// gather takes the answers that are there and, for a while, those to what is fresh.
func (r *relay) gather(ctx context.Context) {
	for len(r.answers) > 0 {
		r.take(<-r.answers)
	}
	enough := time.NewTimer(patience)
	defer enough.Stop()
	for r.fresh > 0 {
		select {
		case o := <-r.answers:
			r.take(o)
		case <-enough.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (r *relay) take(o offer) {
	if o.suspect {
		r.suspects--
	} else {
		r.fresh--
	}
	r.answered = append(r.answered, o)
	for i, row := range o.rows {
		if o.errs[i] == nil {
			r.d.published[row.id] = row.message.MessageID
		}
	}
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// lead blocks until no other process is the relay, or ctx ends.
func (d *Database) lead(ctx context.Context, progress func()) (*relay, error) {
	r := &relay{
		d: d, db: d.write, progress: progress,
		answers: make(chan offer, freshAtOnce+suspectsAtOnce), busy: make(map[target]bool), refused: make(map[target]refusal),
		undeleted: make(map[int64]target),
	}
	if d.dsn.dialect == postgres {
		soon, cancel := context.WithTimeout(ctx, relayTimeout)
		defer cancel()
		conn, err := d.write.Conn(soon)
		if err != nil {
			return nil, err
		}
		r.db, r.conn = conn, conn
	}
	for {
		progress()
		locked, err := r.tryLock(ctx)
		if locked && err == nil {
			err = failpoint.Error(failpoint.OutboxLed)
		}
		if locked && err == nil {
			return r, nil
		}
		if err == nil {
			clear(d.published) // what is there was the other's to delete
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
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	var locked bool
	err := r.conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1)", int64(relayLock)).Scan(&locked)
	if locked {
		// The server is to notice sooner than of other connections when this machine is gone,
		// and give the lock to another. And it is not to keep a plan of when the outbox was empty,
		// nor to make one that reads all of a table or a target; jit would compile what these forbid.
		_, err = r.conn.ExecContext(ctx, "SET tcp_user_timeout = 25000; SET plan_cache_mode = force_custom_plan; SET enable_seqscan = off; "+
			"SET enable_bitmapscan = off; SET enable_sort = off; SET enable_mergejoin = off; SET enable_hashjoin = off; SET jit = off; LISTEN warren_outbox")
	}
	return locked, err
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

// settle deletes the rows that were published, and marks, of each target, the first
// one that was refused: it holds the others back. Then their targets are free again. Rows
// that an operator has locked are left for the next time, and their targets with them: they
// would be read again and again in place of others.
func (r *relay) settle(ctx context.Context) error {
	ctx, cancel := withGrace(ctx, settleTimeout)
	defer cancel()
	for _, answer := range r.answered {
		for i, o := range answer.rows {
			err := answer.errs[i]
			_, refused := r.refused[o.target()]
			switch {
			case err == nil:
				r.undeleted[o.id] = o.target()
				if o.attempts > 0 {
					r.logOf(o).Info("message of the outbox published after all", "attempt", o.attempts+1)
				}
			case !errors.Is(err, consumer.ErrBroker) && !refused:
				r.refused[o.target()] = refusal{o, err}
				if o.attempts == 0 {
					r.logOf(o).Error("message of the outbox not published, it is tried again for ever; those after it with the same exchange and routing key wait", "error", err)
				}
			}
		}
	}
	failed := r.mark(ctx)
	if len(r.undeleted) > 0 {
		failed = errors.Join(failed, r.remove(ctx))
	}
	for _, answer := range r.answered {
		for _, o := range answer.rows {
			delete(r.busy, o.target())
		}
	}
	for t := range r.refused {
		r.busy[t] = true
	}
	for _, t := range r.undeleted {
		r.busy[t] = true
	}
	r.answered = nil
	r.progress()
	return failed
}

// mark says in the rows that were refused why, and when they are tried again.
func (r *relay) mark(ctx context.Context) (failed error) {
	for t, o := range r.refused {
		wait := min(time.Second<<min(o.attempts, 10), maxRetry)
		locked, err := r.exec(ctx, r.d.dsn.dialect.fail, o.id, Text(o.reason.Error()), wait.Seconds())
		if failed = errors.Join(failed, err); err == nil && len(locked) == 0 {
			delete(r.refused, t)
			delete(r.busy, t)
		}
	}
	return failed
}

// remove deletes rows that were published.
func (r *relay) remove(ctx context.Context) error {
	if err := failpoint.Error(failpoint.OutboxPublished); err != nil {
		return err
	}
	ids, err := json.Marshal(slices.Collect(maps.Keys(r.undeleted)))
	if err != nil {
		return err
	}
	locked, err := r.exec(ctx, r.d.dsn.dialect.remove, string(ids))
	if err != nil {
		return err
	}
	for id, t := range r.undeleted {
		if !slices.Contains(locked, id) {
			delete(r.d.published, id)
			delete(r.undeleted, id)
			delete(r.busy, t)
		}
	}
	return failpoint.Error(failpoint.OutboxDeleted)
}

// exec executes a statement that PostgreSQL answers soon, or not at all any more, and
// returns the ids that it returns. On SQLite it waits for whoever is writing, for as long as
// that takes.
func (r *relay) exec(ctx context.Context, statement string, args ...any) ([]int64, error) {
	for {
		soon, cancel := context.WithTimeout(ctx, relayTimeout)
		ids, err := r.ids(soon, statement, args)
		waited := soon.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !waited || r.conn != nil {
			return ids, err
		}
		r.progress()
	}
}

func (r *relay) ids(ctx context.Context, statement string, args []any) (ids []int64, err error) {
	rows, err := r.db.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

func (r *relay) logOf(o outgoing) *slog.Logger {
	m := o.message
	return r.d.log.With("id", o.id, "message_id", m.MessageID, "exchange", m.Exchange, "routing_key", m.RoutingKey)
}

// withGrace returns a context that ends so long after ctx.
func withGrace(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return longer, func() {
		stop()
		cancel()
	}
}
