package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// aliveQueue is where nodes show that they work: what a node is published to, it has to
// agree upon with most of the others. Its length is one.
const aliveQueue = OwnPrefix + "alive"

const (
	// answersWithin is how long a node that works may take to confirm a message.
	answersWithin = 3 * time.Second
	// askAnewEvery is how often it is asked anew beside that: what is published while the
	// queue has no leader may be answered long after it has one again.
	askAnewEvery = time.Second
)

var errStalled = errors.New("it takes messages but confirms none: it may have lost touch with the other nodes, or be stopped")

// declareAlive is the Declaration of aliveQueue.
func declareAlive() Declaration {
	return DeclareQueue(aliveQueue, amqp.Table{
		amqp.QueueTypeArg:     amqp.QueueTypeQuorum,
		amqp.QueueOverflowArg: amqp.QueueOverflowDropHead,
		"x-max-length":        int64(1),
	})
}

// Alive returns nil if the node has a message confirmed by most of the nodes, an error if
// it does not in time, and errNoQueue if there is nothing to publish to. An alarm is no
// error: it is one of all nodes.
func (c *Conn) Alive(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errStalled)
	answers := make(chan error)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	ask := func() {
		asking.Go(func() {
			err := c.alive(ctx)
			select {
			case answers <- err:
			case <-ctx.Done():
			}
		})
	}
	anew := time.NewTicker(askAnewEvery)
	defer anew.Stop()
	ask()
	for {
		select {
		case err := <-answers:
			if !errors.Is(err, errStalled) {
				return err
			}
		case <-anew.C:
			ask()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// alive asks once.
func (c *Conn) alive(ctx context.Context) error {
	err := c.Publish(ctx, Outgoing{Key: aliveQueue})
	switch {
	case err == nil, errors.Is(err, ErrBlocked):
		return nil
	case errors.Is(err, ErrUnroutable):
		return errNoQueue
	case errors.Is(err, ErrRefused), errors.Is(err, errStalled):
		return errStalled
	}
	return err
}

var errNoQueue = fmt.Errorf("there is no queue %s", aliveQueue)
