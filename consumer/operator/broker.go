package operator

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A Broker is the one that a person asks something of.
type Broker struct {
	// Program is what a connection is called.
	Program string
	// User is the name by which the broker knows this process, where a certificate stands
	// for it. Empty means that of the URL.
	User string
	// Nodes are the URLs of its nodes, the preferred one first.
	Nodes []string
}

// Vhost is the virtual host that the URL of the first node names.
func (b Broker) Vhost() string {
	if len(b.Nodes) == 0 {
		return ""
	}
	uri, err := amqp.ParseURI(b.Nodes[0])
	if err != nil {
		return ""
	}
	return uri.Vhost
}

// dial connects to the first node that can be used.
func (b Broker) dial(ctx context.Context, purpose string) (*broker.Conn, error) {
	return broker.Dialer{Program: b.Program, User: b.User}.DialAny(ctx, b.Nodes, broker.Options{Purpose: purpose})
}

// lastWords is how long what has begun may take to end once nobody wants it any more.
const lastWords = 5 * time.Second

// A sweep is a look into one queue over a connection of its own.
type sweep struct {
	*broker.Sweep
	conn *broker.Conn
	stop func()
}

// sweep begins one. When ctx ends, it has a moment to give back what it holds; then the
// connection is cut, and the broker takes it.
func (b Broker) sweep(ctx context.Context, queue string) (*sweep, error) {
	conn, err := b.dial(ctx, "look")
	if err != nil {
		return nil, err
	}
	late, cancel := broker.WithGrace(ctx, lastWords)
	free := context.AfterFunc(late, func() { _ = conn.CloseDeadline(time.Now()) })
	s := &sweep{conn: conn, stop: func() {
		free()
		cancel()
		conn.Close()
	}}
	if s.Sweep, err = conn.Sweep(queue); err != nil {
		s.stop()
		return nil, explainQueue(queue, err)
	}
	return s, nil
}

// end gives back what the sweep holds. The first error counts.
func (s *sweep) end(err error) error {
	if closed := s.Close(); err == nil {
		err = closed
	}
	s.stop()
	return err
}

// each calls f with every message.
func (s *sweep) each(ctx context.Context, f func(*broker.Delivery) error) error {
	for {
		batch, err := s.Next(ctx)
		if err != nil || len(batch) == 0 {
			return err
		}
		for i := range batch {
			if err := f(&batch[i]); err != nil {
				return err
			}
		}
	}
}
