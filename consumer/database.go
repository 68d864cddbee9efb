package consumer

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A Database keeps what processors do in transactions, and which messages are done.
// Package database makes one. An error that wraps ErrDatabase means that it cannot be
// used: no message is at fault for that.
type Database interface {
	// Done tells whether the message's work is done, and what its result was.
	Done(ctx context.Context, k InboxKey) (Result, bool, error)
	// Begin begins a transaction, which ends with ctx at the latest. Unless k is
	// nil, it records in it that the message's work is done, and returns ErrDone
	// if it was already.
	Begin(ctx context.Context, k *InboxKey) (Transaction, error)
	// Record records that the message's work is done, outside of a transaction.
	Record(ctx context.Context, k InboxKey) error
}

// An Outbox has messages to publish. That of package database is also its Database.
type Outbox interface {
	// Run publishes what is in the outbox. It blocks until ctx ends; all that it
	// started has ended then. It calls progress whenever it gets on, at least every
	// 30 seconds: who does not is taken for stuck. publish offers messages to the
	// broker, in their order, and blocks until it has answered. An error in the place
	// of a message says why no queue has it: with ErrBroker, that of the broker, which
	// has nothing to do with the message. It may be used by several goroutines.
	Run(ctx context.Context, progress func(), publish func([]Message) []error)
}

// A Transaction of a [Database] is that of one attempt.
type Transaction interface {
	SQL() *sql.Tx
	// Publish adds m to the outbox. Its message id is not empty.
	Publish(ctx context.Context, m Message) error
	// Commit commits. A result that is not nil is kept, for repeats of the
	// message. The error wraps ErrDatabase if the message is not at fault.
	Commit(ctx context.Context, r *Result) error
	// Rollback rolls back what is not committed. The error wraps ErrDatabase
	// if the database was lost before.
	Rollback(ctx context.Context) error
}

var (
	// ErrDone is the error of a transaction for a message whose work is done.
	ErrDone = errors.New("the message's work is done already")
	// ErrDatabase is in an error that has nothing to do with the message: the
	// attempt is not counted.
	ErrDatabase = errors.New("the database cannot be used")
	// ErrBroker is in the error of a message that was not published for a reason
	// that has nothing to do with it.
	ErrBroker = broker.ErrBroker

	errNoDatabase = errors.New("there is no database: set WARREN_DATABASE_URL")
)

// Tx returns the transaction of this attempt, which it begins the first time. It is
// committed after Process has returned nil, before the message is acknowledged, and
// rolled back otherwise; it is rolled back, too, when ctx ends. If the message's
// work turns out to be done, the error says so, and the message is acknowledged.
// After an error that is the database's, the attempt is made again and not counted.
// Neither Commit nor Rollback are for the processor to call.
func (s *Scope) Tx(ctx context.Context) (*sql.Tx, error) {
	t, err := s.transaction(ctx)
	if err != nil {
		return nil, err
	}
	return t.SQL(), nil
}

// Publish publishes m if and when this attempt succeeds: it is written to the
// outbox in the attempt's transaction, see Tx, and published after the commit, at
// least once. Messages of one exchange and routing key are published in their
// order. m names an exchange, or a queue in RoutingKey. Without a MessageID it is
// given one, and without a trace that of the attempt. Headers have to be what JSON
// can say: no []byte and no time.Time.
func (s *Scope) Publish(ctx context.Context, m Message) error {
	m, err := s.outgoing(ctx, m)
	if err != nil {
		return fmt.Errorf("publish to exchange %q with routing key %q: %w", m.Exchange, m.RoutingKey, err)
	}
	t, err := s.transaction(ctx)
	if err != nil {
		return err
	}
	return t.Publish(ctx, m)
}

// outgoing returns m as it goes to the outbox, or why it cannot be published.
func (s *Scope) outgoing(ctx context.Context, m Message) (Message, error) {
	if m.Exchange == "" && m.RoutingKey == "" {
		return m, errors.New("neither an exchange nor, as the routing key, a queue is named")
	}
	if err := broker.CheckJSONValue(m.Headers); err != nil {
		return m, err
	}
	m.MessageID = cmp.Or(m.MessageID, rand.Text())
	headers := make(map[string]any, len(m.Headers)+2)
	maps.Copy(headers, m.Headers)
	if _, traced := headers["traceparent"]; !traced && s.propagator != nil {
		s.propagator.Inject(trace.ContextWithSpan(ctx, s.span), broker.HeaderCarrier(headers))
	}
	if _, err := m.Outgoing(broker.ForOutbox); err != nil {
		return m, err
	}
	m.Headers = headers
	return m, nil
}

// transaction returns the transaction of the attempt, which it begins the first time.
func (s *Scope) transaction(ctx context.Context) (Transaction, error) {
	switch {
	case s.database == nil:
		return nil, errNoDatabase
	case s.databaseErr != nil:
		return nil, s.databaseErr
	case s.tx != nil:
		return s.tx, nil
	}
	begun := time.Now()
	tx, err := s.database.Begin(ctx, s.inboxKey)
	s.waited = time.Since(begun)
	if err != nil {
		s.databaseErr = err
		return nil, err
	}
	s.tx = tx
	s.opened = append(s.opened, openedResource{Resource: transactionResource{s}, name: "the transaction"})
	return tx, nil
}

// A transactionResource lets the transaction of a scope end with it.
type transactionResource struct{ *Scope }

func (r transactionResource) Commit(ctx context.Context) error {
	var kept *Result
	if r.delivery.ReplyTo != "" {
		kept = &r.result
	}
	return r.noteLost(r.tx.Commit(ctx, kept))
}

func (r transactionResource) Close(ctx context.Context) error {
	if err := r.noteLost(r.tx.Rollback(ctx)); !errors.Is(err, ErrDatabase) {
		return err
	}
	return nil // it is rolled back all the same, and the attempt made again
}

// noteLost keeps an error that tells of a lost database.
func (s *Scope) noteLost(err error) error {
	if errors.Is(err, ErrDatabase) {
		s.databaseErr = err
	}
	return err
}
