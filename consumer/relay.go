package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer/internal/outage"
)

// relayGrace is how long a batch that is being published may go on when the daemon
// is told to stop.
const relayGrace = 5 * time.Second

// A relay publishes what the database has in its outbox, over a connection of its
// own: what is sent there in bulk, and may be throttled, shall hold up no retry.
type relay struct {
	nodes   []string
	timeout time.Duration // for one batch
	ready   func() bool   // the queues have been declared
	meters  *meters
	log     *slog.Logger
	outage  outage.Outage

	watching sync.WaitGroup // of each connection, whether it is blocked

	mu      sync.Mutex
	conn    *publisher    // nil: none yet
	socket  net.Conn      // of conn
	retries retry.Backoff // nil while the broker can be used
}

var errNotConnected = errors.New("not connected to the broker")

// run runs the outbox until ctx ends. What is being published then has until work
// ends, but no longer than relayGrace.
func (r *relay) run(ctx, work context.Context, o Outbox, turned *pulse) {
	defer turned.end()
	defer r.watching.Wait()
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
	o.Run(ctx, func() { turned.beat(time.Now()) }, func(batch []Message) []error { return r.publish(ctx, work, batch) })
	close(ended)
	grace.Wait()
}

// publish offers a batch to the broker; see Outbox. While there is no broker, it
// takes a while to say so, unless ctx ends.
func (r *relay) publish(ctx, work context.Context, batch []Message) []error {
	work, cancel := context.WithTimeoutCause(work, r.timeout, errNoConfirm)
	defer cancel()
	p, err := r.connection(work)
	if err != nil {
		if !errors.Is(err, errNotConnected) { // which the supervisor logs
			r.notNow(err)
		}
		sleep(ctx, r.pause())
		return repeated(fmt.Errorf("%w: %w", ErrBroker, err), len(batch))
	}
	// A write to a broker with an alarm knows of no context; nor may a late confirm
	// be taken for that of another message.
	keep := context.AfterFunc(work, r.cut)
	errs := p.publishBatch(work, batch)
	keep()
	blocked := p.blocked.Load()
	unanswered := false
	for i, err := range errs {
		if errors.Is(err, errNoConfirm) && blocked {
			errs[i] = fmt.Errorf("%w: %w", ErrBroker, errBlocked)
		}
		unanswered = unanswered || errors.Is(errs[i], ErrBroker)
	}
	r.meters.relayed(errs)
	for i, err := range errs {
		if err != nil && !errors.Is(err, ErrBroker) {
			errs[i] = batch[i].explainPublish(err)
		}
	}
	if unanswered && (blocked || p.conn.IsClosed()) {
		sleep(ctx, r.pause())
	} else {
		r.calm()
		r.outage.End(r.log, "the outbox is published again")
	}
	return errs
}

func (r *relay) notNow(err error) {
	r.outage.Begin(r.log, slog.LevelWarn, "the outbox is not published for now", err)
}

// connection returns the connection, made anew if it was lost, unless the broker
// takes nothing for now.
func (r *relay) connection(ctx context.Context) (*publisher, error) {
	if !r.ready() {
		return nil, errNotConnected
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil || r.conn.conn.IsClosed() {
		conn, socket, err := r.connect(ctx)
		if err != nil {
			return nil, err
		}
		p, blocks := newPublisher(conn, topology{}), conn.NotifyBlocked(make(chan amqp.Blocking, 1))
		r.conn, r.socket = p, socket
		r.watching.Go(func() {
			for b := range blocks {
				p.blocked.Store(b.Active)
				if b.Active {
					r.notNow(errBlocked)
				}
			}
		})
	}
	if r.conn.blocked.Load() {
		return nil, errBlocked
	}
	return r.conn, nil
}

// connect connects to the first node that can be used. What is wrong with the
// others is logged by the supervisor, who has the same ones.
func (r *relay) connect(ctx context.Context) (*amqp.Connection, net.Conn, error) {
	var errs []error
	for _, node := range r.nodes {
		conn, socket, err := connectSocket(ctx, node, "outbox", 0)
		if err == nil {
			return conn, socket, nil
		}
		errs = append(errs, explain(err))
	}
	return nil, nil, errors.Join(errs...)
}

func (r *relay) pause() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.retries == nil {
		r.retries = reconnectBackoff()
	}
	d, _ := r.retries.Next()
	return d
}

// calm has the next pause be a short one again.
func (r *relay) calm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retries = nil
}

// cut ends the connection without a word to the broker.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.socket != nil {
		_ = r.socket.Close()
	}
}

// hangUp closes the connection, while nothing is being published.
func (r *relay) hangUp() {
	if r.conn != nil {
		_ = r.conn.conn.CloseDeadline(time.Now().Add(closeTimeout)) // or it was lost already
	}
}

func repeated(err error, n int) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// errUnanswered is in the place of a message of which nothing is known.
var errUnanswered = fmt.Errorf("%w: it has not answered", ErrBroker)

// publishBatch offers messages to the broker in their order. In the place of each
// it returns nil if a queue has it, else why not, with ErrBroker if that has nothing
// to do with the message. It blocks until the broker has answered, or ctx ends.
//
// The messages follow each other without waiting for their confirms. If the broker
// closes the channel for what it objects to, those that it has not answered for are
// offered once more, one by one, so that the culprit is found; and none of them
// after one of the same target that was refused.
func (p *publisher) publishBatch(ctx context.Context, batch []Message) []error {
	errs := repeated(errUnanswered, len(batch))
	msgs := make([]amqp.Publishing, len(batch))
	held := make(map[target]bool)
	for i, m := range batch {
		var err error
		if msgs[i], err = m.publishing(); err != nil {
			errs[i], held[m.target()] = err, true
		}
	}
	if len(batch) > 1 {
		p.pipeline(ctx, batch, msgs, errs, held)
	}
	for i, m := range batch {
		if !errors.Is(errs[i], errUnanswered) || held[m.target()] || p.conn.IsClosed() || ctx.Err() != nil {
			continue
		}
		errs[i] = p.publishOnce(ctx, m.Exchange, m.RoutingKey, msgs[i])
		if errs[i] != nil && (p.conn.IsClosed() || ctx.Err() != nil) {
			errs[i] = errUnanswered
			break
		}
		held[m.target()] = errs[i] != nil
	}
	if !errors.Is(context.Cause(ctx), errNoConfirm) {
		return errs
	}
	for i, m := range batch { // or one queue that never answers would hold up all others
		if errors.Is(errs[i], errUnanswered) && !held[m.target()] {
			errs[i], held[m.target()] = errNoConfirm, true
		}
	}
	return errs
}

// A target is what the order of messages is kept for.
type target struct{ exchange, key string }

func (m Message) target() target { return target{m.Exchange, m.RoutingKey} }

// pipeline publishes msgs on one channel, and then waits for the confirms. It
// replaces the errUnanswered of those that the broker has answered for, and adds
// the targets of those that it has refused to held.
func (p *publisher) pipeline(ctx context.Context, batch []Message, msgs []amqp.Publishing, errs []error, held map[target]bool) {
	ch, err := p.conn.Channel()
	if err != nil {
		return
	}
	if err := ch.Confirm(false); err != nil {
		return
	}
	closes := ch.NotifyClose(make(chan *amqp.Error, 1))
	returns := ch.NotifyReturn(make(chan amqp.Return, len(batch)))
	confirms := make([]*amqp.DeferredConfirmation, len(batch))
	for i, m := range batch {
		if held[m.target()] {
			continue
		}
		if confirms[i], err = ch.PublishWithDeferredConfirmWithContext(ctx, m.Exchange, m.RoutingKey, true, false, msgs[i]); err != nil {
			break // the channel or the connection is closed
		}
	}
	closed := false
	for i, c := range confirms {
		if c == nil {
			continue
		}
		select {
		case <-c.Done():
		case <-closes: //nolint:errcheck // it is closed; what was published at that moment may stay pending
			closed = true
		case <-ctx.Done():
			confirms[i] = nil
		}
	}
	select {
	case <-closes: //nolint:errcheck // why it was closed comes up with the culprit
		closed = true
	default:
	}
	// The broker sends a return before its confirm. It does not say which message it
	// is: of several that look alike, all count as returned.
	type name struct {
		target target
		id     string
	}
	returned := make(map[name]error)
	for range len(returns) {
		r := <-returns
		returned[name{target{r.Exchange, r.RoutingKey}, r.MessageId}] = fmt.Errorf("%w (%s)", errUnroutable, r.ReplyText)
	}
	for i, c := range confirms {
		m := batch[i]
		switch {
		case c == nil:
			continue
		case c.Acked():
			errs[i] = returned[name{m.target(), m.MessageID}]
		case !closed:
			errs[i] = errRefused
		default:
			continue
		}
		held[m.target()] = held[m.target()] || errs[i] != nil
	}
	if !closed && ctx.Err() == nil {
		_ = ch.Close()
	}
}
