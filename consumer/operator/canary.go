package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Fate is what has become of dead letters that were replayed.
type Fate struct {
	Dead     int // again, or still: those that could not be published
	Retrying int // failed once more, and wait for their next attempt
	Unknown  int // have no message-id to be known by
	// Consumers are those of the work queue. While there are none, nothing is known of the rest.
	Consumers int
}

// Text says how too many of those have failed that done tells of.
func (f Fate) Text(done Done) string {
	text := fmt.Sprintf("too many have failed: dead letters %d, waiting for another attempt %d, without a message-id to be known by %d", f.Dead, f.Retrying, f.Unknown)
	if done.Left > 0 {
		text += fmt.Sprintf("; not replayed, since they cannot be published: %d (%v)", done.Left, done.Why)
	}
	return text
}

// Failed counts those that are not known to have gone well.
func (f Fate) Failed() int { return f.Dead + f.Retrying + f.Unknown }

// Fate looks what has become of the dead letters of a work queue that had these ids and were
// replayed into it. Those that it does not find are worked, or in the queue still. It is an error if
// dead letters may have been looked at nearly as often as the broker allows.
func (b Broker) Fate(ctx context.Context, queue string, ids []string) (f Fate, err error) {
	known := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return strings.HasPrefix(id, "~") })
	f.Unknown = len(ids) - len(known)
	if len(known) > 0 {
		if f.Dead, f.Retrying, err = b.failedAgain(ctx, queue, known); err != nil {
			return f, err
		}
	}
	conn, err := b.dial(ctx, "look")
	if err != nil {
		return f, err
	}
	defer conn.Close()
	return f, conn.OnChannel(func(ch *amqp.Channel) error {
		state, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		f.Consumers = state.Consumers
		return err
	})
}

func (b Broker) failedAgain(ctx context.Context, queue string, ids []string) (again, retrying int, err error) {
	looked, err := b.Letters(ctx, queue, Selection{IDs: ids}, func(*Letter) error { return nil })
	if err != nil {
		return 0, 0, err
	}
	if looked.InVain > 0 {
		return 0, 0, fmt.Errorf("what becomes of canaries is not looked at any more: the broker counts each look at %s, %d by now, and drops what is over the queue's delivery limit, "+
			"20 unless it is set: set it with rabbitmqctl set_policy (delivery-limit), as docs/dead-letters.md says", dead(queue), looked.InVain)
	}
	list, err := b.Waiting(ctx, []string{queue}, Selection{IDs: ids}, 0)
	for _, w := range list.Messages {
		if w.Attempts > 0 {
			retrying++
		}
	}
	return looked.Matched, retrying, err
}
