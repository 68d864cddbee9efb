package consumer

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/pulse"
)

// A session is a connection to consume and one to publish, both to the same node: an
// alarm on the broker stops it from reading what a publisher sends, and the
// acknowledgements must not wait behind that. It is built whole and thrown away whole;
// nothing of it survives its connections. Beside these it may have one to try what could
// end a connection, whose loss costs nothing.
type session struct {
	consume, publish *broker.Conn
	trial            *broker.Trial // for what may end a connection
	began            time.Time
}

// openSession connects to one node. It blocks for at most two connect timeouts, or
// until ctx ends.
func openSession(ctx context.Context, d broker.Dialer, nodeURL string, log *slog.Logger) (*session, error) {
	s := &session{trial: &broker.Trial{Dialer: d, URL: nodeURL}, began: time.Now()}
	var err error
	if s.consume, err = d.Dial(ctx, nodeURL, broker.Options{Purpose: "consume"}); err != nil {
		return nil, err
	}
	var blockedSince time.Time
	s.publish, err = d.Dial(ctx, nodeURL, broker.Options{Purpose: "publish", OnBlocked: func(active bool, reason string) {
		if active {
			blockedSince = time.Now()
			log.Warn("the broker takes no messages for now: retries, dead letters and replies wait; look for a memory or disk alarm",
				"node", broker.NodeName(nodeURL), "reason", reason)
		} else if !blockedSince.IsZero() {
			log.Info("the broker takes messages again", "node", broker.NodeName(nodeURL), "duration", time.Since(blockedSince).Round(time.Millisecond))
		}
	}})
	if err != nil {
		s.consume.Close()
		return nil, err
	}
	return s, nil
}

// node is the session's, host:port.
func (s *session) node() string { return s.consume.Node }

// isLost tells whether the session can still be used.
func (s *session) isLost() bool { return s.consume.IsClosed() || s.publish.IsClosed() }

// ready is how many messages of a queue are ready to be handed out. It blocks until the
// broker has answered.
func (s *session) ready(ctx context.Context, queue string) (messages int, err error) {
	err = s.trial.Do(ctx, func(c *broker.Conn) error {
		return c.OnChannel(func(ch *amqp.Channel) error {
			q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			messages = q.Messages
			return err
		})
	})
	return messages, err
}

// watch blocks until one of the connections is lost, and returns why, or until ended is
// closed, and returns nil.
func (s *session) watch(ended <-chan struct{}, turned *pulse.Pulse) error {
	turned.Beat(time.Now())
	turns := time.NewTicker(pulse.Every)
	defer turns.Stop()
	for {
		select {
		case <-turns.C:
			turned.Beat(time.Now())
		case <-ended:
			return nil
		case err := <-s.consume.Closes():
			return broker.LostBecause(err)
		case err := <-s.publish.Closes():
			return broker.LostBecause(err)
		}
	}
}

// close ends the connections, waiting a second at most for the broker to agree.
func (s *session) close() {
	var closing sync.WaitGroup
	closing.Go(s.trial.Close)
	for _, conn := range []*broker.Conn{s.consume, s.publish} {
		closing.Go(conn.Close)
	}
	closing.Wait()
}

// newest holds the session that there is now, for whoever has something to publish.
type newest struct {
	mu      sync.Mutex
	session *session      // nil: none
	changed chan struct{} // closed with the next change
	stopped time.Time     // since when there will be no other; zero: there may be
}

func newNewest() *newest { return &newest{changed: make(chan struct{})} }

// set says which session there is now; nil is none.
func (n *newest) set(s *session) { n.change(func() { n.session = s }) }

// stop says that there will be no other session than the one there is.
func (n *newest) stop() {
	n.change(func() {
		if n.stopped.IsZero() {
			n.stopped = time.Now()
		}
	})
}

func (n *newest) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// get returns the session that there is now; nil if there is none.
func (n *newest) get() *session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.session
}

// stoppedFor is how long the daemon has been stopping.
func (n *newest) stoppedFor() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped.IsZero() {
		return 0
	}
	return time.Since(n.stopped)
}

// errNoSession is why nothing can be published by a daemon that is stopping.
var errNoSession = errors.New("the connection to the broker is lost, and the daemon is stopping")

// wait blocks until there is a session that is not lost, ctx ends, or there will be none.
func (n *newest) wait(ctx context.Context) (*session, error) {
	for {
		n.mu.Lock()
		s, stopped, changed := n.session, n.stopped, n.changed
		n.mu.Unlock()
		if s != nil && !s.isLost() {
			return s, nil
		}
		if !stopped.IsZero() {
			return nil, errNoSession
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
