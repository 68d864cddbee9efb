package database

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
)

const (
	measureEvery = 15 * time.Second
	cleanEvery   = time.Minute
	cleanBatch   = 1000 // rows: so few that nobody waits for them
	// maxCounted is how many rows of the outbox are counted: a count takes a look at each.
	maxCounted = 100_000
)

// tend measures the outbox and forgets the messages that are older than the TTL, until
// ctx ends. Neither waits for the other: a backlog that is not measured any more would be
// told for ever.
func (d *Database) tend(ctx context.Context) {
	var cleaning sync.WaitGroup
	defer cleaning.Wait()
	cleaning.Go(func() { d.clean(ctx) })
	for ctx.Err() == nil {
		d.backlog.Store(d.measure(ctx))
		sleep(ctx, measureEvery)
	}
}

func (d *Database) clean(ctx context.Context) {
	for sleep(ctx, cleanEvery) {
		for more := true; more && ctx.Err() == nil; {
			n, err := d.cleanOnce(ctx)
			more = err == nil && n == cleanBatch
		}
	}
}

// cleanOnce deletes a batch. On SQLite it waits for whoever is writing, for as long as that
// takes.
func (d *Database) cleanOnce(ctx context.Context) (int64, error) {
	soon := ctx
	if d.dsn.dialect == postgres {
		var cancel context.CancelFunc
		soon, cancel = context.WithTimeout(ctx, statementTimeout)
		defer cancel()
	}
	var n int64
	r, err := d.write.ExecContext(soon, d.dsn.dialect.clean, int64(d.ttl/time.Second), cleanBatch)
	if err == nil {
		n, err = r.RowsAffected()
	}
	return n, d.written(ctx, "clean the inbox", err)
}

// A backlog is what the outbox has.
type backlog struct {
	messages int64
	age      float64 // of the oldest, in seconds
}

// measure returns the backlog, or nil if it cannot be told.
func (d *Database) measure(ctx context.Context) *backlog {
	var b backlog
	soon, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	err := d.read.QueryRowContext(soon, d.dsn.dialect.backlog, maxCounted).Scan(&b.messages, &b.age)
	if d.usable(ctx, "look into the outbox", err) != nil {
		return nil
	}
	return &b
}

// Meter has the backlog of the outbox, which every daemon measures while Run runs, told
// to meters.
func (d *Database) Meter(meters metric.MeterProvider) error {
	meter := meters.Meter("github.com/warrenmq/warren/consumer/database")
	_, err := meter.Int64ObservableGauge("warren.outbox.messages", metric.WithUnit("{message}"),
		metric.WithDescription("Messages in the outbox that are not published yet; beyond 100000 they are not counted."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			if b := d.backlog.Load(); b != nil {
				o.Observe(b.messages)
			}
			return nil
		}))
	if err == nil {
		_, err = meter.Float64ObservableGauge("warren.outbox.age", metric.WithUnit("s"),
			metric.WithDescription("How long ago the first message in the outbox was written that is not published yet; 0: there is none."),
			metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
				if b := d.backlog.Load(); b != nil {
					o.Observe(b.age)
				}
				return nil
			}))
	}
	if err != nil {
		return fmt.Errorf("make the metrics of the outbox: %w", err)
	}
	return nil
}
