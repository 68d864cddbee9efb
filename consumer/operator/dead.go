package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/operator/filter"
)

// Headers that Warren writes into dead letters, or when it takes them from there. Times are
// Unix milliseconds.
const (
	headerFailedAt = "x-warren-failed-at"
)

// A Selection says which messages are meant. Zero means all.
type Selection struct {
	IDs    []string // those that have one of these
	Filter *filter.Filter
	Most   int             // the first so many of them in the order of the queue; zero means all
	Found  func(id string) // is told of each that is found; nil: nobody is
}

// has tells whether the message with that id is meant.
func (s Selection) has(id string, m filter.Message) bool {
	if len(s.IDs) > 0 && !slices.Contains(s.IDs, id) || !s.Filter.Match(m) {
		return false
	}
	if s.Found != nil {
		s.Found(id)
	}
	return true
}

// Looked is what a look came to.
type Looked struct {
	All     int // messages that were looked at
	Matched int // that are meant
	// InVain is how often the broker counts one of them as handed out in vain, if its
	// delivery limit may be that of RabbitMQ 4.0, 20: beyond, it drops them. Zero means that
	// there is nothing to fear.
	InVain int
}

// Where a delivery limit that is not known begins to be near.
const (
	nearLimit    = 10
	defaultLimit = broker.DeliveryLimit
)

// errEnough ends a look that has what it was for.
var errEnough = errors.New("enough")

// Letters calls each with the dead letters of a work queue that are meant, in the order of the
// dead-letter queue. They stay there; docs/dead-letters.md says what looking at them changes. It
// holds no more of them in memory than it was handed at once. It blocks until it has seen
// all, each returns an error, or ctx ends.
func (b Broker) Letters(ctx context.Context, queue string, which Selection, each func(*Letter) error) (Looked, error) {
	var looked Looked
	s, err := b.sweep(ctx, dead(queue))
	if err != nil {
		return looked, err
	}
	err = s.each(ctx, func(d *amqp.Delivery) error {
		looked.see(d)
		l := newLetter(queue, s.conn.User, d)
		if !which.has(l.ID, l) {
			return nil
		}
		looked.Matched++
		if err := each(l); err != nil {
			return err
		}
		if looked.Matched == which.Most {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		s.Rest(ctx)
		err = nil
	}
	looked.consider(s, queue)
	return looked, s.end(err)
}

func dead(queue string) string { return broker.Queue{Name: queue}.DeadLetterQueue() }

// see counts a message.
func (l *Looked) see(d *amqp.Delivery) {
	l.All++
	l.InVain = max(l.InVain, int(integer(d.Headers, broker.HeaderDeliveryCount)))
}

// consider tells whether what was counted may come near a limit: not where looking does not
// count, nor where the queue has been declared by Warren.
func (l *Looked) consider(s *sweep, queue string) {
	if !s.conn.Version.NackCounts || l.InVain < nearLimit || l.InVain > defaultLimit || s.conn.HasOwnLimit(queue) {
		l.InVain = 0
	}
}

// explainQueue says why a queue cannot be looked into.
func explainQueue(queue string, err error) error {
	if broker.IsMissing(err) {
		return fmt.Errorf("there is no queue %s: check the name of the work queue, and the virtual host of WARREN_AMQP_URL", queue)
	}
	return broker.Explain(err)
}
