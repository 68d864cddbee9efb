package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Trial is a connection for what may end one, apart from all others: a broker ends that
// of whoever consumes a queue without a leader. It stays until something on it has failed.
type Trial struct {
	connect func(context.Context) (*Conn, error)
	open    context.Context // ends with end
	cancel  context.CancelFunc
	dialing chan struct{} // taken by the one that opens the connection that all begin with

	mu       sync.Mutex
	conn     *Conn         // for who comes next; nil: a new one
	users    map[*Conn]int // of all that are open
	failures int           // how often it could not be opened
	failure  error         // why, the last time
}

// newTrial makes a Trial for a node. It connects when it is needed.
func newTrial(d Dialer, nodeURL string) *Trial {
	t := &Trial{dialing: make(chan struct{}, 1), users: make(map[*Conn]int)}
	t.open, t.cancel = context.WithCancel(context.Background())
	t.connect = func(ctx context.Context) (*Conn, error) { return d.Dial(ctx, nodeURL, Options{Purpose: "look"}) }
	return t
}

// Do runs f with a connection. If that is lost meanwhile, by f or by what others do on
// it, f runs once more with one of its own, so that its error is not another's. It may be
// called by any number of goroutines, which do not wait for each other.
func (t *Trial) Do(ctx context.Context, f func(*Conn) error) error {
	c, err := t.shared(ctx)
	if err != nil {
		return err
	}
	lost, err := t.run(c, f)
	if err == nil || !lost {
		return err
	}
	if c, err = t.own(ctx); err != nil {
		return err
	}
	_, err = t.run(c, f)
	return err
}

// run runs f with c, and leaves that. It tells whether c was lost before.
func (t *Trial) run(c *Conn, f func(*Conn) error) (lost bool, err error) {
	err = amqp.ErrClosed // of an f that panics
	defer func() {
		lost = c.IsClosed()
		t.leave(c, err)
	}()
	err = f(c)
	return lost, err
}

// shared returns the connection that all begin with. Who comes while it is being opened
// waits for that, and fails with it: one after the other they would take minutes to find out
// the same of a node that does not answer.
func (t *Trial) shared(ctx context.Context) (*Conn, error) {
	c, failures, _ := t.current()
	if c != nil {
		return c, nil
	}
	select {
	case t.dialing <- struct{}{}:
		defer func() { <-t.dialing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c, now, failure := t.current()
	switch {
	case c != nil:
		return c, nil
	case now != failures:
		return nil, failure
	}
	c, err := t.own(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.conn = c
	} else if ctx.Err() == nil { // or it says nothing to others
		t.failures, t.failure = t.failures+1, err
	}
	return c, err
}

// current returns the connection that all begin with, nil if there is none, and how often
// that could not be opened, and why.
func (t *Trial) current() (c *Conn, failures int, failure error) {
	t.mu.Lock()
	c, failures, failure = t.conn, t.failures, t.failure
	if c != nil {
		t.users[c]++
	}
	t.mu.Unlock()
	if c != nil && c.IsClosed() {
		t.leave(c, amqp.ErrClosed)
		c = nil
	}
	return c, failures, failure
}

// own returns a connection that nobody else uses.
func (t *Trial) own(ctx context.Context) (*Conn, error) {
	c, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.users[c] = 1
	t.mu.Unlock()
	if t.open.Err() != nil { // meanwhile: nobody closes it
		t.leave(c, nil)
		return nil, amqp.ErrClosed
	}
	return c, nil
}

// leave says what has become of what was done on a connection. After an error nobody else
// begins with it: what the broker has not answered may go on there until it is closed.
func (t *Trial) leave(c *Conn, err error) {
	t.mu.Lock()
	if err != nil && t.conn == c {
		t.conn = nil
	}
	t.users[c]--
	unused := t.users[c] == 0 && t.conn != c
	if unused {
		delete(t.users, c)
	}
	t.mu.Unlock()
	if unused {
		c.Close()
	}
}

func (t *Trial) dial(ctx context.Context) (*Conn, error) {
	if t.open.Err() != nil {
		return nil, amqp.ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.open, cancel)()
	return t.connect(ctx)
}

// end returns the connections that are open, for the caller to close, and lets no other be
// opened. What goes on with them ends with them.
func (t *Trial) end() []*Conn {
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.users))
}

// TryConsume looks whether the queue can be consumed. It consumes it for a moment if it
// looks empty, as one without a leader does, or if wary is true: then one message may
// count as handed out in vain. The broker looks for a leader that is lost for a minute; who
// asks later may be answered sooner.
func (c *Conn) TryConsume(ctx context.Context, queue string, wary bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errNoAnswer)
	defer cancel()
	return c.await(ctx, func(c *Conn) error {
		return c.OnChannel(func(ch *amqp.Channel) error {
			q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			if err != nil || q.Messages > 0 && !wary {
				return err
			}
			if err := ch.Qos(1, 0, false); err != nil {
				return err
			}
			_, err = ch.Consume(queue, c.Name, false, false, false, false, nil)
			return err
		})
	})
}

var errNoAnswer = fmt.Errorf("the broker does not answer within %v; the queue may be without a leader: see which of its nodes are down", answerTimeout)
