package operator

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/time/rate"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A Done is how far an act has come.
type Done struct {
	All     int // messages that were there at its beginning
	Looked  int // at so many of them
	Matched int // that are meant
	Done    int // and done with
	// Left are those that are meant and stay where they are, since they cannot be published,
	// and Why is the reason of the first.
	Left int
	Why  error
}

// What is published and not yet off its queue when a process is killed is there twice. So it
// is no more than one in so many of what was moved before, and a few.
const (
	leastWindow = 2
	mostWindow  = 256
	windowShare = 200
)

// A way is where a message goes to, or why it cannot.
type way func(d *amqp.Delivery) (o broker.Outgoing, meant bool, err error)

// move moves messages of a queue: each is published, and taken off the queue once the broker has
// confirmed that another one has it. The rest stays. Killed in between, a message is in both.
// It ends with the messages that were there at its beginning, at the first that the
// broker does not take, or when ctx ends: what is under way then is finished.
func (b Broker) move(ctx context.Context, queue string, most int, perSecond float64, where func(user string) way, progress func(Done)) (done Done, err error) {
	s, err := b.sweep(ctx, queue)
	if err != nil {
		return done, err
	}
	done.All = s.Total
	defer func() { err = s.end(err) }()
	conn, err := b.dial(ctx, "replay") // of its own: an alarm must not keep it from acknowledging
	if err != nil {
		return done, err
	}
	defer conn.Close()
	pipe, err := conn.OpenPipe(mostWindow)
	if err != nil {
		return done, err
	}
	defer pipe.Close()
	late, cancel := broker.WithGrace(ctx, lastWords)
	defer cancel()

	toWay := where(conn.User)
	var pace *rate.Limiter
	if perSecond > 0 {
		pace = rate.NewLimiter(rate.Limit(perSecond), 1)
	}
	one := func(d *amqp.Delivery) error {
		done.Looked++
		o, meant, err := toWay(d)
		if !meant {
			return nil
		}
		if done.Matched++; err == nil {
			if err := paced(ctx, late, pace, pipe); err != nil {
				return err
			}
			pipe.Window = min(max(done.Done/windowShare, leastWindow), mostWindow)
			err = pipe.Publish(ctx, o, func(err error) error {
				if err != nil {
					return refused(o, err)
				}
				if err := s.Ack(d); err != nil {
					return err
				}
				done.Done++
				progress(done)
				return nil
			})
			if err != nil && !errors.Is(err, broker.ErrUnsendable) {
				return broker.Explain(err)
			}
		}
		if err != nil {
			if done.Left++; done.Left == 1 {
				done.Why = err
			}
		}
		if done.Matched == most {
			return errEnough
		}
		return nil
	}
	for err == nil {
		var batch []amqp.Delivery
		if batch, err = s.Next(ctx); err != nil || len(batch) == 0 {
			break
		}
		for i := range batch {
			if err = one(&batch[i]); err != nil {
				break
			}
		}
		flushed := pipe.Flush(late)
		if err == nil || errors.Is(err, errEnough) && flushed != nil {
			err = flushed
		}
		progress(done)
	}
	if errors.Is(err, errEnough) {
		s.Rest(ctx)
		err = nil
	}
	return done, err
}

// paced waits until the next message may be published. What is under way is finished meanwhile,
// until late ends.
func paced(ctx, late context.Context, pace *rate.Limiter, pipe *broker.Pipe) error {
	if pace == nil {
		return nil
	}
	wait := pace.Reserve().Delay()
	if wait == 0 {
		return nil
	}
	if err := pipe.Flush(late); err != nil {
		return err
	}
	if !broker.Sleep(ctx, wait) {
		return context.Cause(ctx)
	}
	return nil
}

// refused says why the broker has not taken o, as far as that is known.
func refused(o broker.Outgoing, err error) error {
	switch {
	case errors.Is(err, broker.ErrUnroutable) && o.Exchange == "":
		return fmt.Errorf("there is no queue %s: check the name, or start its worker, which declares it", o.Key)
	case errors.Is(err, broker.ErrRefused):
		return fmt.Errorf("queue %s does not take it: it is full, or has no leader; go on when it has room", o.Key)
	}
	return broker.Explain(err)
}

// republished returns a message as it is published again: all that its publisher set, but for
// what would do harm, and without what the broker keeps for itself. What others than Warren have
// written in Warren's name is left out, or signing it would have it believed.
func republished(user string, ours bool, d *amqp.Delivery) (amqp.Publishing, error) {
	if _, unreadable := d.Headers[broker.HeaderUnreadable]; unreadable && len(d.Headers) == 1 {
		return amqp.Publishing{}, errHeadersLost
	}
	headers := make(amqp.Table, len(d.Headers)+4)
	keep := func(name string, v any) {
		if _, there := d.Headers[broker.OriginalPrefix+name]; !there || !ours {
			headers[broker.OriginalPrefix+name] = v
		}
	}
	for name, v := range d.Headers {
		switch {
		case broker.IsBrokers(name):
		case name == "CC" || name == "BCC":
			keep(name, v)
		case broker.IsOwn(name) && !ours:
		default:
			headers[name] = v
		}
	}
	if _, again := headers[broker.HeaderRoutingKey]; !again {
		if death := lastDeath(d); death != nil {
			headers[broker.HeaderExchange], _ = death["exchange"].(string)
			if keys, _ := death["routing-keys"].([]any); len(keys) > 0 {
				headers[broker.HeaderRoutingKey] = keys[0]
			}
		}
		if d.UserId != "" && d.UserId != user {
			keep("user-id", d.UserId)
		}
	}
	if expiration := expirationOf(d); expiration != "" {
		keep("expiration", expiration)
	}
	return amqp.Publishing{
		Headers: headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: amqp.Persistent, Priority: d.Priority,
		CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, MessageId: d.MessageId, Timestamp: d.Timestamp, Type: d.Type, AppId: d.AppId, Body: d.Body,
	}, nil
}

// expirationOf is the expiration that the publisher has set. That of a message that waits is
// Warren's, and says how long.
func expirationOf(d *amqp.Delivery) string {
	if _, waits := d.Headers[broker.HeaderNotBefore]; waits {
		return ""
	}
	return d.Expiration
}

// headerCopy names a copy that a daemon has published; see the documentation of queues.
const headerCopy = "x-warren-copy"

var errHeadersLost = errors.New("its headers cannot be read, and would be lost")

// ReplayOptions say how dead letters are put back.
type ReplayOptions struct {
	To   string  // another queue; empty: that which each came from
	Rate float64 // so many a second; zero: as fast as the broker takes them
	// Body returns another body for a dead letter. Nil means that all keep theirs.
	Body func(*Letter) ([]byte, error)
}

// Replay puts dead letters of a work queue back into it, to be tried as often as any other
// message. Each is published, confirmed, and then taken off the dead letters: killed in between
// it is in both, with the same message-id, and never in neither. It tells progress of each, and
// returns how far it came, with why it did not come further. What is told is for one
// goroutine, that which calls.
func (b Broker) Replay(ctx context.Context, queue string, which Selection, o ReplayOptions, progress func(Done)) (Done, error) {
	where := func(user string) way {
		return func(d *amqp.Delivery) (broker.Outgoing, bool, error) {
			l := newLetter(queue, user, d)
			if !which.has(l.ID, l) {
				return broker.Outgoing{}, false, nil
			}
			msg, err := l.replayed(user, o)
			to := o.To
			if to == "" {
				to = l.Queue
			}
			return broker.Outgoing{Key: to, Message: msg, Purpose: broker.ForReplay}, true, err
		}
	}
	return b.move(ctx, dead(queue), which.Most, o.Rate, where, progress)
}

// replayed is the message that a dead letter becomes: one that has not been tried.
func (l *Letter) replayed(user string, o ReplayOptions) (amqp.Publishing, error) {
	msg, err := republished(user, isOurs(user, l.delivery), l.delivery)
	if err != nil {
		return msg, err
	}
	// By the name of its copy it would count as one that was worked.
	for _, name := range []string{broker.HeaderAttempt, broker.HeaderError, broker.HeaderReason, headerFailedAt, headerCopy} {
		delete(msg.Headers, name)
	}
	msg.Headers[broker.HeaderReplayed] = int64(l.Replayed + 1)
	if o.Body == nil {
		return msg, nil
	}
	if msg.Body, err = o.Body(l); err == nil {
		msg.Headers[headerEdited] = digest(l.delivery.Body)
	}
	return msg, err
}

// headerEdited is the digest of the body that a dead letter had before somebody changed it.
const headerEdited = "x-warren-edited"
