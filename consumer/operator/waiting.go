package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/operator/filter"
)

// WaitingFields are the fields of messages that wait that filters know.
var WaitingFields = filter.Fields{
	Plain: []string{"id", "in", "attempts", "error", "type", "queue", "size"},
	Paths: []string{"header", "body"},
}

// A WaitingMessage is one in a wait queue.
type WaitingMessage struct {
	Queue     string    `json:"queue"`      // that it goes to when it is due
	MessageID string    `json:"message_id"` // or, if it has none, a name made of what it consists of
	Due       time.Time `json:"due"`
	Attempts  int       `json:"attempts"` // already made
	Error     string    `json:"error,omitempty"`
	Type      string    `json:"type,omitempty"`
	Size      int       `json:"size"` // of the body, in bytes
}

// A waiting is one as filters see it.
type waiting struct {
	WaitingMessage
	content
}

func newWaiting(d *amqp.Delivery) *waiting {
	w := &waiting{WaitingMessage{
		Queue: broker.WaitsFor(d), MessageID: d.MessageId, Attempts: int(integer(d.Headers, broker.HeaderAttempt)), Type: d.Type, Size: len(d.Body),
	}, content{delivery: d}}
	if w.MessageID == "" {
		w.MessageID = digestID(d)
	}
	if due := integer(d.Headers, broker.HeaderNotBefore); due > 0 {
		w.Due = bounded(time.UnixMilli(due))
	}
	w.Error, _ = d.Headers[broker.HeaderError].(string)
	return w
}

// Field returns a field, for filters.
func (w *waiting) Field(name string, path []string) (any, bool) {
	switch name {
	case "id":
		return w.MessageID, true
	case "in":
		return time.Until(w.Due), !w.Due.IsZero()
	case "attempts":
		return int64(w.Attempts), true
	case "error":
		return w.Error, w.Error != ""
	case "queue":
		return w.Queue, true
	}
	return w.field(name, path)
}

// A WaitingList is what was found waiting.
type WaitingList struct {
	Messages []WaitingMessage // the next due first
	Matched  int              // that are meant, also those that are not among Messages
	Last     time.Time        // when the last of these is due
	More     int              // that were not looked at
	// Missing are the queues that have wait queues but are not there. What falls due for
	// one is kept, and comes home once it is declared, but no client can see it.
	Missing []string
	// Unknown are those that are not there, and for which nothing has ever waited.
	Unknown []string
}

// Waiting returns what waits in the broker for the queues of these names, and is meant: of each
// wait queue it looks at the first ones, at most so many; zero means all. Of what is meant, it keeps
// as many as which.Most, the next due. They stay where they are, in
// their order, and come home in time; those that fall due while they are looked at do so a
// moment later. It blocks until it is done or ctx ends.
func (b Broker) Waiting(ctx context.Context, queues []string, which Selection, most int) (list WaitingList, err error) {
	waits, err := b.waitQueues(ctx, queues, &list)
	if err != nil {
		return list, err
	}
	for _, name := range waits {
		look := func() error { return b.lookIntoWait(ctx, name, queues, which, most, &list) }
		err := look()
		for until := time.Now().Add(leaderlessFor); broker.IsFatal(err) && time.Now().Before(until) && broker.Sleep(ctx, lookAgain); {
			err = look()
		}
		if err != nil {
			return WaitingList{}, fmt.Errorf("look into %s: %w", name, err)
		}
	}
	list.Messages = nextDue(list.Messages, which.Most)
	return list, nil
}

// nextDue are the next due of messages, at most so many; zero means all.
func nextDue(all []WaitingMessage, most int) []WaitingMessage {
	slices.SortStableFunc(all, func(a, b WaitingMessage) int { return a.Due.Compare(b.Due) })
	if most > 0 && len(all) > most {
		clear(all[most:]) // or their texts would be kept
		all = all[:most]
	}
	return all
}

// A wait queue may be declared in the moment in which somebody looks, and has no leader then,
// as after the loss of a node: leaderlessFor is for how long it is looked into again.
const (
	leaderlessFor = 30 * time.Second
	lookAgain     = 200 * time.Millisecond
)

// lookIntoWait adds what is meant of a wait queue to the list, or nothing if it fails.
func (b Broker) lookIntoWait(ctx context.Context, name string, queues []string, which Selection, most int, list *WaitingList) error {
	s, err := b.sweep(ctx, name)
	if err != nil {
		return err
	}
	var found []WaitingMessage
	looked, matched, last := 0, 0, list.Last
	if most > 0 {
		s.Limit(most)
	}
	err = s.each(ctx, func(d *amqp.Delivery) error {
		looked++
		w := newWaiting(d)
		if !slices.Contains(queues, w.Queue) || !which.has(w.MessageID, w) {
			return nil
		}
		matched++
		if w.Due.After(last) {
			last = w.Due
		}
		if found = append(found, w.WaitingMessage); which.Most > 0 && len(found) >= 2*which.Most {
			found = nextDue(found, which.Most)
		}
		return nil
	})
	if err = s.end(err); err != nil {
		return err
	}
	list.Messages = nextDue(append(list.Messages, found...), which.Most)
	list.Matched, list.Last = list.Matched+matched, last
	if most > 0 && looked == most {
		list.More += s.Total - looked
	}
	return nil
}

// waitQueues are the wait queues there are for work queues. Which of these are missing or
// unknown is written into the list.
func (b Broker) waitQueues(ctx context.Context, queues []string, list *WaitingList) (names []string, err error) {
	conn, err := b.dial(ctx, "waiting")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.CloseDeadline(time.Now()) })()
	for _, queue := range queues {
		own, gone, err := conn.WaitQueues(queue)
		if err != nil {
			return nil, errors.Join(context.Cause(ctx), err)
		}
		switch names = append(names, own...); {
		case gone:
			list.Missing = append(list.Missing, queue)
		case len(own) == 0 && !conn.Has(queue):
			list.Unknown = append(list.Unknown, queue)
		}
	}
	shared, err := conn.OldWaitQueues()
	return append(names, shared...), err
}

// Release puts messages that wait for a work queue into it, to be worked now. Each is published,
// confirmed, and then taken off its wait queue: killed in between it is in both, and a daemon
// that has worked the first acknowledges the second. It ends as Replay does.
func (b Broker) Release(ctx context.Context, queue string, which Selection, progress func(Done)) (Done, error) {
	return b.moveWaiting(ctx, queue, which, progress, func(user string, d *amqp.Delivery) (broker.Outgoing, error) {
		ours := user == "" || d.UserId == user
		msg, err := republished(user, ours, d)
		delete(msg.Headers, broker.HeaderNotBefore)
		if priority, there := broker.Integer(d.Headers[broker.OriginalPrefix+"priority"]); there && ours {
			msg.Priority = uint8(min(max(priority, 0), 255)) // it has none while it waits
		}
		return broker.Outgoing{Key: queue, Message: msg, Purpose: broker.ForReplay}, err
	})
}

// ReasonDropped is the reason of a dead letter that somebody has made of a message that waited.
const ReasonDropped = "dropped"

// Drop puts messages that wait for a work queue into its dead letters. It ends as Replay does.
func (b Broker) Drop(ctx context.Context, queue string, which Selection, progress func(Done)) (Done, error) {
	return b.moveWaiting(ctx, queue, which, progress, func(user string, d *amqp.Delivery) (broker.Outgoing, error) {
		msg, err := republished(user, user == "" || d.UserId == user, d)
		if err != nil {
			return broker.Outgoing{}, err
		}
		delete(msg.Headers, broker.HeaderNotBefore)
		delete(msg.Headers, headerCopy)
		text := "somebody dropped it while it waited"
		if last, _ := msg.Headers[broker.HeaderError].(string); last != "" {
			text += "; its last error: " + last
		}
		msg.Headers[broker.HeaderReason] = ReasonDropped
		msg.Headers[broker.HeaderError] = broker.Shortened(text, maxErrorBytes)
		msg.Headers[headerFailedAt] = time.Now().UnixMilli()
		return broker.Outgoing{Key: dead(queue), Message: msg, Purpose: broker.ForDeadLetter}, nil
	})
}

// moveWaiting moves what waits for a queue, from one of its wait queues after the other.
func (b Broker) moveWaiting(ctx context.Context, queue string, which Selection, progress func(Done),
	outgoing func(user string, d *amqp.Delivery) (broker.Outgoing, error),
) (Done, error) {
	return b.ofWaits(ctx, queue, which, progress, func(name string, which Selection, progress func(Done)) (Done, error) {
		where := func(user string) way {
			return func(d *amqp.Delivery) (broker.Outgoing, bool, error) {
				if w := newWaiting(d); w.Queue != queue || !which.has(w.MessageID, w) {
					return broker.Outgoing{}, false, nil
				}
				o, err := outgoing(user, d)
				return o, true, err
			}
		}
		return b.move(ctx, name, which.Most, 0, where, progress)
	})
}

// DiscardWaiting takes away messages that wait for a work queue. It is as Discard.
func (b Broker) DiscardWaiting(ctx context.Context, queue string, which Selection, archive Archive, progress func(Done)) (Done, error) {
	return b.ofWaits(ctx, queue, which, progress, func(name string, which Selection, progress func(Done)) (done Done, err error) {
		s, err := b.sweep(ctx, name)
		if err != nil {
			return done, err
		}
		defer func() { err = s.end(err) }()
		return s.discard(ctx, which.Most, archive, progress, func(d *amqp.Delivery) (Line, bool) {
			w := newWaiting(d)
			return lineOf(d), w.Queue == queue && which.has(w.MessageID, w)
		})
	})
}

// ofWaits acts on the wait queues of a work queue, until one fails, and returns what they came to
// together.
func (b Broker) ofWaits(ctx context.Context, queue string, which Selection, progress func(Done), act func(name string, which Selection, progress func(Done)) (Done, error)) (all Done, err error) {
	names, err := b.waitQueues(ctx, []string{queue}, new(WaitingList))
	if err != nil {
		return all, err
	}
	most := which.Most
	for _, name := range names {
		if which.Most = most - all.Matched; most > 0 && which.Most <= 0 {
			break
		}
		if most == 0 {
			which.Most = 0
		}
		done, err := act(name, which, func(d Done) { progress(all.with(d)) })
		if all = all.with(done); err != nil {
			return all, fmt.Errorf("%s: %w", name, err)
		}
	}
	return all, nil
}

// with is how far an act has come with a further queue.
func (d Done) with(more Done) Done {
	d.All, d.Looked, d.Matched, d.Done, d.Left = d.All+more.All, d.Looked+more.Looked, d.Matched+more.Matched, d.Done+more.Done, d.Left+more.Left
	if d.Why == nil {
		d.Why = more.Why
	}
	return d
}
