package broker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/consumer/internal/pulse"
)

// A Session is a connection to consume and one to publish, both to the same node: an
// alarm on the broker stops it from reading what a publisher sends, and the
// acknowledgements must not wait behind that. It is built whole and thrown away whole;
// nothing of it survives its connections. Beside these it may have one to try what could
// end a connection, whose loss costs nothing.
type Session struct {
	Consume, Publish *Conn
	Trial            *Trial // for what may end a connection
	Began            time.Time
	stalled          atomic.Bool // its node does not work

	mu     sync.Mutex
	users  int
	unused chan struct{} // closed when nobody uses it; nil: it is not going to be replaced
}

// Use takes note that somebody has deliveries of the session, until Leave.
func (s *Session) Use() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

// Leave says that whoever has called Use is done with the session.
func (s *Session) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 && s.unused != nil {
		close(s.unused)
		s.unused = nil // whoever was about to use it may yet, and leave it again
	}
}

// Retire closes a session that another one has replaced, once nobody uses it any more
// and what is being published over it is in the broker, or when ended is closed. It blocks
// until then.
func (s *Session) Retire(ended <-chan struct{}) {
	s.mu.Lock()
	unused := make(chan struct{})
	if s.users == 0 {
		close(unused)
	} else {
		s.unused = unused
	}
	s.mu.Unlock()
	select {
	case <-unused:
	case <-ended:
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		s.Publish.Finish()
	}()
	select {
	case <-finished:
	case <-ended:
	}
	s.Close()
	<-finished
}

// OpenSession connects to one node. It blocks for at most two connect timeouts, or
// until ctx ends.
func (d Dialer) OpenSession(ctx context.Context, nodeURL string, log *slog.Logger) (*Session, error) {
	s := &Session{Trial: newTrial(d, nodeURL), Began: time.Now()}
	var err error
	if s.Consume, err = d.Dial(ctx, nodeURL, Options{Purpose: "consume"}); err != nil {
		return nil, err
	}
	var blockedSince time.Time
	s.Publish, err = d.Dial(ctx, nodeURL, Options{Purpose: "publish", OnBlocked: func(active bool, reason string) {
		if active {
			blockedSince = time.Now()
			log.Warn("the broker takes no messages for now: retries, dead letters and replies wait; look for a memory or disk alarm",
				"node", NodeName(nodeURL), "reason", reason)
		} else if !blockedSince.IsZero() {
			log.Info("the broker takes messages again", "node", NodeName(nodeURL), "duration", time.Since(blockedSince).Round(time.Millisecond))
		}
	}})
	if err != nil {
		s.Consume.Close()
		return nil, err
	}
	return s, nil
}

// Node is the session's, host:port.
func (s *Session) Node() string { return s.Consume.Node }

// IsLost tells whether a connection of the session is lost.
func (s *Session) IsLost() bool { return s.Consume.IsClosed() || s.Publish.IsClosed() }

// Ready is how many messages of a queue are ready to be handed out. It blocks until the
// broker has answered, or for answerTimeout.
func (s *Session) Ready(ctx context.Context, queue string) (messages int, err error) {
	if s.stalled.Load() {
		return 0, errStalled // as all that is asked of it would find out
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errNoAnswer)
	defer cancel()
	var ready atomic.Int64 // an answer may come late
	err = s.Trial.Do(ctx, func(c *Conn) error {
		return c.await(ctx, func(c *Conn) error {
			n, err := c.ready(queue)
			ready.Store(int64(n))
			return err
		})
	})
	return int(ready.Load()), err
}

var errUnread = errors.New("what the broker sends is not read any more, which is a fault of this program: please report it")

// A Renewal gets what has become of a session that is to be replaced: nil, or why it has
// not been.
type Renewal chan<- error

// Watch blocks until one of the connections is lost, or left has a reason to leave, and
// returns why, until ended is closed, and returns nothing, or until it receives a Renewal,
// and returns that.
func (s *Session) Watch(ended <-chan struct{}, renewals <-chan Renewal, left <-chan error, turned *pulse.Pulse) (Renewal, error) {
	turned.Beat(time.Now())
	turns := time.NewTicker(pulse.Every)
	defer turns.Stop()
	for {
		select {
		case <-turns.C:
			turned.Beat(time.Now())
			for _, c := range []*Conn{s.Consume, s.Publish} {
				if c.door.unread() {
					s.stalled.Store(true) // it would not read the answer to its end
					return nil, errUnread
				}
			}
		case <-ended:
			return nil, nil
		case r := <-renewals:
			return r, nil
		case err := <-left:
			return nil, err
		case err := <-s.Consume.Closes():
			return nil, LostBecause(err)
		case err := <-s.Publish.Closes():
			return nil, LostBecause(err)
		}
	}
}

// Close ends the connections, waiting a second at most for the broker to agree, and not at
// all for a node that does not work.
func (s *Session) Close() {
	var closing sync.WaitGroup
	for _, conn := range append(s.Trial.end(), s.Consume, s.Publish) {
		if s.stalled.Load() {
			_ = conn.socket.Close()
		}
		closing.Go(conn.Close)
	}
	closing.Wait()
}
