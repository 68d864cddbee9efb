// Package relay publishes what a database has in its outbox.
package relay

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

// grace is how long a batch that is being published may go on when the daemon is
// told to stop.
const grace = 5 * time.Second

// A Relay publishes what the database has in its outbox, over a connection of its own:
// what is sent there in bulk, and may be throttled, shall hold up no retry.
type Relay struct {
	Outbox  Outbox
	Node    func() string // the URL of the one that is worked with; empty: none, for now
	Dialer  broker.Dialer
	Timeout time.Duration // for one batch
	Turned  *pulse.Pulse  // beats as long as the outbox gets on
	Log     *slog.Logger

	outage  outage.Outage
	mu      sync.Mutex
	conn    *broker.Conn  // nil: none yet
	retries retry.Backoff // nil while the broker can be used

	finishing sync.WaitGroup // connections that were replaced
}

// An Outbox has messages to publish; see the one of package consumer.
type Outbox interface {
	Run(ctx context.Context, progress func(), publish func([]broker.Message) []error)
}

var errNotConnected = errors.New("not connected to the broker")

// Run runs the outbox until ctx ends. What is being published then has until work
// ends, but no longer than grace.
func (r *Relay) Run(ctx, work context.Context) {
	defer r.Turned.End()
	defer r.hangUp()
	work, end := context.WithCancel(work)
	defer end()
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-ctx.Done():
		case <-ended:
			return
		}
		select {
		case <-time.After(grace):
			end()
		case <-ended:
		}
	})
	r.Outbox.Run(ctx, func() { r.Turned.Beat(time.Now()) }, func(batch []broker.Message) []error { return r.publish(ctx, work, batch) })
	close(ended)
	watch.Wait()
}

// publish offers a batch to the broker; see Outbox. While there is no broker, it takes a
// while to say so, unless ctx ends.
func (r *Relay) publish(ctx, work context.Context, batch []broker.Message) []error {
	limited, cancel := context.WithTimeoutCause(work, r.Timeout, broker.ErrNoConfirm)
	defer cancel()
	conn, err := r.connection(limited, work)
	if err != nil {
		if !errors.Is(err, errNotConnected) { // which the supervisor logs
			r.reportOutage(err)
		}
		broker.Sleep(ctx, r.pause())
		errs := make([]error, len(batch))
		for i := range errs {
			errs[i] = fmt.Errorf("%w: %w", broker.ErrBroker, err)
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
			errs[i] = fmt.Errorf("%w: it waits for one before it", broker.ErrBroker)
		case err != nil:
			errs[i], unsayable[t] = err, true
		default:
			out, at = append(out, o), append(at, i)
		}
	}
	unanswered := false
	for n, err := range conn.PublishBatch(limited, out) {
		switch {
		case errors.Is(err, broker.ErrNoConfirm) && conn.Blocked():
			err = fmt.Errorf("%w: %w", broker.ErrBroker, broker.ErrBlocked)
		case err != nil && !errors.Is(err, broker.ErrBroker):
			err = broker.ExplainPublish(out[n].Exchange, out[n].Key, err)
		}
		errs[at[n]], unanswered = err, unanswered || errors.Is(err, broker.ErrBroker)
	}
	if unanswered && (conn.Blocked() || conn.IsClosed()) {
		broker.Sleep(ctx, r.pause())
	} else {
		r.resetBackoff()
		r.outage.End(r.Log, "the outbox is published again")
	}
	return errs
}

func (r *Relay) reportOutage(err error) {
	r.outage.Begin(r.Log, slog.LevelWarn, "the outbox is not published for now", err)
}

// connection returns the connection to the node, made anew if it was lost, unless the
// broker takes nothing for now. One that is replaced is closed when all on it is answered,
// or when work ends.
func (r *Relay) connection(ctx, work context.Context) (*broker.Conn, error) {
	node := r.Node()
	if node == "" {
		return nil, errNotConnected
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil && (r.conn.IsClosed() || r.conn.IsOutdated() || r.conn.Node != broker.NodeName(node)) {
		old := r.conn
		r.finishing.Go(func() { // other batches may be under way on it
			defer context.AfterFunc(work, old.Close)()
			old.Finish()
		})
		r.conn = nil
	}
	if r.conn == nil {
		// What is wrong with the nodes is logged by the supervisor, who has the same ones.
		conn, err := r.Dialer.Dial(ctx, node, broker.Options{Purpose: "outbox", OnBlocked: func(active bool, _ string) {
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

func (r *Relay) pause() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.retries == nil {
		r.retries = broker.Backoff()
	}
	d, _ := r.retries.Next()
	return d
}

// resetBackoff has the next pause be a short one again.
func (r *Relay) resetBackoff() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retries = nil
}

// hangUp closes the connection, while nothing is being published.
func (r *Relay) hangUp() {
	defer r.finishing.Wait()
	if r.conn != nil {
		r.conn.Close()
	}
}
