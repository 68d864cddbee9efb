package broker

import (
	"context"
	"fmt"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Trial is a connection for what may end one, which is open only while it is used: a
// broker ends that of whoever consumes a queue without a leader, and of all others on it.
type Trial struct {
	dialer Dialer
	url    string
	open   context.Context // ends with Close
	cancel context.CancelFunc

	mu    sync.Mutex
	conn  *Conn // nil: nobody uses it
	users int
}

// newTrial makes a Trial for a node.
func newTrial(d Dialer, nodeURL string) *Trial {
	open, cancel := context.WithCancel(context.Background())
	return &Trial{dialer: d, url: nodeURL, open: open, cancel: cancel}
}

// Do runs f with a connection. If that is lost meanwhile, by f or by what others do on
// it, f runs once more with one of its own, so that its error is not another's. It may be
// called by any number of goroutines, which do not wait for each other.
func (t *Trial) Do(ctx context.Context, f func(*Conn) error) error {
	c, err := t.shared(ctx)
	if err != nil {
		return err
	}
	defer t.leave()
	if err = f(c); err == nil || !c.IsClosed() {
		return err
	}
	if c, err = t.dial(ctx); err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

func (t *Trial) shared(ctx context.Context) (*Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open.Err() != nil {
		return nil, amqp.ErrClosed
	}
	if t.conn == nil || t.conn.IsClosed() {
		if t.conn != nil {
			t.conn.Close() // waits for what it has started
		}
		var err error
		if t.conn, err = t.dial(ctx); err != nil {
			t.conn = nil
			return nil, err
		}
	}
	t.users++
	return t.conn, nil
}

// leave closes the connection when nobody uses it any more.
func (t *Trial) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users--; t.users == 0 && t.conn != nil {
		t.conn.Close()
		t.conn = nil
	}
}

func (t *Trial) dial(ctx context.Context) (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.open, cancel)()
	return t.dialer.Dial(ctx, t.url, Options{Purpose: "look"})
}

// Close ends the connection, and what goes on with it.
func (t *Trial) Close() {
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		t.conn.Close()
	}
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
