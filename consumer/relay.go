package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/outage"
	"github.com/warrenmq/warren/consumer/internal/pulse"
)

// relayGrace is how long a batch that is being published may go on when the daemon is
// told to stop.
const relayGrace = 5 * time.Second

// A relay publishes what the database has in its outbox, over a connection of its own:
// what is sent there in bulk, and may be throttled, shall hold up no retry.
type relay struct {
	nodes   []string
	dialer  broker.Dialer
	timeout time.Duration // for one batch
	ready   func() bool   // the queues have been declared
	log     *slog.Logger
	outage  outage.Outage

	mu      sync.Mutex
	conn    *broker.Conn  // nil: none yet
	retries retry.Backoff // nil while the broker can be used
}

var errNotConnected = errors.New("not connected to the broker")

// run runs the outbox until ctx ends. What is being published then has until work
// ends, but no longer than relayGrace.
func (r *relay) run(ctx, work context.Context, o Outbox, turned *pulse.Pulse) {
	defer turned.End()
	defer r.hangUp()
	work, end := context.WithCancelCause(work)
	defer end(nil)
	ended := make(chan struct{})
	var grace sync.WaitGroup
	grace.Go(func() {
		select {
		case <-ctx.Done():
		case <-ended:
			return
		}
		select {
		case <-time.After(relayGrace):
			end(ErrShutdown)
		case <-ended:
		}
	})
	o.Run(ctx, func() { turned.Beat(time.Now()) }, func(batch []Message) []error { return r.publish(ctx, work, batch) })
	close(ended)
	grace.Wait()
}

// publish offers a batch to the broker; see Outbox. While there is no broker, it takes a
// while to say so, unless ctx ends.
func (r *relay) publish(ctx, work context.Context, batch []Message) []error {
	work, cancel := context.WithTimeoutCause(work, r.timeout, broker.ErrNoConfirm)
	defer cancel()
	conn, err := r.connection(work)
	if err != nil {
		if !errors.Is(err, errNotConnected) { // which the supervisor logs
			r.reportOutage(err)
		}
		sleep(ctx, r.pause())
		errs := make([]error, len(batch))
		for i := range errs {
			errs[i] = fmt.Errorf("%w: %w", ErrBroker, err)
		}
		return errs
	}
	out, errs := make([]broker.Outgoing, 0, len(batch)), make([]error, len(batch))
	at := make([]int, 0, len(batch))
	type target struct{ exchange, key string }
	unsayable := make(map[target]bool) // and what follows there waits for it
	for i, m := range batch {
		o, err := m.Outgoing(broker.ForOutbox)
		switch t := (target{m.Exchange, m.RoutingKey}); {
		case unsayable[t]:
			errs[i] = fmt.Errorf("%w: it waits for one before it", ErrBroker)
		case err != nil:
			errs[i], unsayable[t] = err, true
		default:
			out, at = append(out, o), append(at, i)
		}
	}
	unanswered := false
	for n, err := range conn.PublishBatch(work, out) {
		switch {
		case errors.Is(err, broker.ErrNoConfirm) && conn.Blocked():
			err = fmt.Errorf("%w: %w", ErrBroker, broker.ErrBlocked)
		case err != nil && !errors.Is(err, ErrBroker):
			err = broker.ExplainPublish(out[n].Exchange, out[n].Key, err)
		}
		errs[at[n]], unanswered = err, unanswered || errors.Is(err, ErrBroker)
	}
	if unanswered && (conn.Blocked() || conn.IsClosed()) {
		sleep(ctx, r.pause())
	} else {
		r.resetBackoff()
		r.outage.End(r.log, "the outbox is published again")
	}
	return errs
}

func (r *relay) reportOutage(err error) {
	r.outage.Begin(r.log, slog.LevelWarn, "the outbox is not published for now", err)
}

// connection returns the connection, made anew if it was lost, unless the broker takes
// nothing for now.
func (r *relay) connection(ctx context.Context) (*broker.Conn, error) {
	if !r.ready() {
		return nil, errNotConnected
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil && r.conn.IsClosed() {
		r.conn.Close()
		r.conn = nil
	}
	if r.conn == nil {
		// What is wrong with the nodes is logged by the supervisor, who has the same ones.
		conn, err := r.dialer.DialAny(ctx, r.nodes, broker.Options{Purpose: "outbox", OnBlocked: func(active bool, _ string) {
			if active {
				r.reportOutage(broker.ErrBlocked)
			}
		}})
		if err != nil {
			return nil, err
		}
		r.conn = conn
	}
	if r.conn.Blocked() {
		return nil, broker.ErrBlocked
	}
	return r.conn, nil
}

func (r *relay) pause() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.retries == nil {
		r.retries = broker.Backoff()
	}
	d, _ := r.retries.Next()
	return d
}

// resetBackoff has the next pause be a short one again.
func (r *relay) resetBackoff() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retries = nil
}

// hangUp closes the connection, while nothing is being published.
func (r *relay) hangUp() {
	if r.conn != nil {
		r.conn.Close()
	}
}
