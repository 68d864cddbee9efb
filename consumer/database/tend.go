package database

import (
	"context"
	"fmt"
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
// ctx ends.
func (d *Database) tend(ctx context.Context) {
	cleaned := time.Now()
	for {
		d.backlog.Store(d.measure(ctx))
		if !sleep(ctx, measureEvery) {
			return
		}
		if time.Since(cleaned) < cleanEvery {
			continue
		}
		cleaned = time.Now()
		for more := true; more && ctx.Err() == nil; {
			n, err := d.cleanOnce(ctx)
			more = err == nil && n == cleanBatch
		}
	}
}

func (d *Database) cleanOnce(ctx context.Context) (int64, error) {
	var n int64
	r, err := d.write.ExecContext(ctx, d.dsn.dialect.clean, int64(d.ttl/time.Second), cleanBatch)
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
