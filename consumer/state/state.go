// Package state keeps in a database where messages stand, for whoever asks. [Store] is
// what a [consumer.Config] takes as its Observer.
package state

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/consumer/internal/outage"
)

const (
	acceptTimeout = time.Second
	askTimeout    = 5 * time.Second
)

// A Store keeps where messages stand. It is told as a [consumer.Observer], which
// never waits for the database: transitions are gathered and written together, and
// dropped while the database is away for long. It may be used by any number of
// goroutines.
type Store struct {
	db          *database.Database
	ttl         time.Duration
	log         *slog.Logger
	outage      outage.Outage
	transitions chan row
	asking      chan struct{} // has room for so many requests as may have a connection
	bytes       atomic.Int64  // of the results that are not written yet
	overflow    atomic.Int64  // transitions dropped since it was logged last
	drops       metric.Int64Counter

	// Of Run.
	pending map[key]row
	fails   int       // in a row
	warned  time.Time // of overflow
}

var _ consumer.Observer = (*Store)(nil)

// New makes the Store of a database, which keeps a state until so long after the last
// transition, or the attempt that is due. Zero means 7 days. Its metrics go to meters.
func New(db *database.Database, ttl time.Duration, meters metric.MeterProvider, log *slog.Logger) (*Store, error) {
	drops, err := meters.Meter("github.com/warrenmq/warren/consumer/state").Int64Counter("warren.status.dropped", metric.WithUnit("{transition}"),
		metric.WithDescription("States of messages that were not written, because the database was away or too slow."))
	if err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	drops.Add(context.Background(), 0)
	return &Store{
		db: db, ttl: cmp.Or(ttl, 7*24*time.Hour), log: log, outage: outage.Outage{Texts: 1}, drops: drops,
		transitions: make(chan row, 4096), asking: make(chan struct{}, database.AskingConnections), pending: make(map[key]row),
	}, nil
}

// A Message is where a message stands: the last transition that is known of, of the
// result of which only the size may have been kept.
type Message struct {
	consumer.Transition
	ResultBytes int
}

// Observe has t written soon. It never blocks.
func (s *Store) Observe(t consumer.Transition) {
	o := s.rowOf(t)
	if size := int64(len(o.Result)); size > 0 && s.bytes.Add(size) > pendingBytes {
		s.bytes.Add(-size)
		o.Result = nil // that the work is done is worth more
	}
	select {
	case s.transitions <- o:
	default:
		s.bytes.Add(-int64(len(o.Result)))
		s.overflow.Add(1)
		s.drops.Add(context.Background(), 1)
	}
}

// Accept writes at once that the message is in its queue. It blocks until that is
// done, for a second at most. sent is when its publishing began: what has become of it
// since is later.
func (s *Store) Accept(ctx context.Context, queue, messageID string, sent time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	end, err := s.ask(ctx)
	if err != nil {
		return err
	}
	defer end()
	return s.write(ctx, []row{s.rowOf(consumer.Transition{
		Queue: queue, MessageID: messageID, State: consumer.Accepted, At: sent, First: true,
	})})
}

// State returns where the message stands; false if nothing is known of it. Of a
// message-id in several queues, the latest state counts, unless queue names one.
func (s *Store) State(ctx context.Context, messageID, queue string) (Message, bool, error) {
	m := Message{Transition: consumer.Transition{MessageID: messageID}}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	end, err := s.ask(ctx)
	if err != nil {
		return m, false, err
	}
	defer end()
	var updated, due int64
	err = s.db.QueryRow(ctx, selectState, []any{database.Text(messageID), database.Text(queue)}, &m.Queue, &m.State, &m.Attempt, &m.Redelivered, &updated, &due,
		&m.Percent, &m.Text, &m.Reason, &m.Error, &m.Result.ContentType, &m.Result.Body, &m.ResultBytes)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return m, false, nil
	case err != nil:
		return m, false, err
	}
	m.At = time.UnixMilli(updated)
	if due != 0 {
		m.Due = time.UnixMilli(due)
	}
	return m, true, nil
}

// ask blocks until one of the connections that requests may have is free, or ctx ends:
// however many ask, the deliveries have theirs.
func (s *Store) ask(ctx context.Context) (end func(), err error) {
	select {
	case s.asking <- struct{}{}:
		return func() { <-s.asking }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
