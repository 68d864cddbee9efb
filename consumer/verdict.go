package consumer

import (
	"context"
	"errors"
	"time"
)

// The causes with which the context of an attempt ends.
var (
	ErrTimeout  = errors.New("the attempt took longer than the queue's timeout")
	ErrShutdown = errors.New("the daemon is stopping and the shutdown timeout has passed")
)

// Permanent marks err as one that no retry can cure: the delivery is
// dead-lettered. Permanent(nil) is nil.
func Permanent(err error) error {
	return mark(err, verdict{action: deadLetter, reason: reasonPermanent})
}

// RetryAfter marks err as worth another attempt no sooner than d from now, and no
// sooner than the ordinary backoff; a year is the longest. Zero or negative d leaves just
// the ordinary backoff. RetryAfter(nil, d) is nil.
func RetryAfter(err error, d time.Duration) error {
	return mark(err, verdict{action: retryLater, after: d})
}

// Unavailable marks err as the fault of what the processor depends on, such as a mail
// server that refuses connections: it has nothing to do with the message, which is
// tried again later without the attempt being counted. When several attempts in a row
// say so, the queue is braked. A delay that [RetryAfter] has put on err stays. Unavailable(nil) is nil.
func Unavailable(err error) error {
	v := verdict{action: retryLater, uncounted: true}
	if m, ok := errors.AsType[*marked](err); ok && m.verdict.action == retryLater {
		v.after = m.verdict.after
	}
	return mark(err, v)
}

// Undecodable marks err as the fault of a body or header that cannot be read: the
// delivery is dead-lettered. Undecodable(nil) is nil.
func Undecodable(err error) error {
	return mark(err, verdict{action: deadLetter, reason: reasonUndecodable})
}

type action int

const (
	acknowledge action = iota // the work is done
	retryLater                // wait, then another attempt
	deadLetter                // keep for an operator
	requeue                   // to the queue, as if it had never been taken
	reject                    // whole, to where the broker dead-letters it
)

var actionNames = [...]string{"ack", "retry", "dead", "return", "reject"}

func (a action) String() string { return actionNames[a] }

// The values of the header x-warren-reason.
const (
	reasonPermanent     = "permanent"
	reasonExhausted     = "exhausted"
	reasonUndecodable   = "undecodable"
	reasonCancelled     = "cancelled"     // by an operator
	reasonUndeliverable = "undeliverable" // a reply
)

var reasons = []string{reasonPermanent, reasonExhausted, reasonUndecodable, reasonCancelled, reasonUndeliverable}

// A verdict is what is to happen with a delivery after an attempt.
type verdict struct {
	action action
	after  time.Duration // retryLater: at least this long
	reason string        // deadLetter: why
	// uncounted is true of a retryLater whose attempt is not the message's fault.
	uncounted bool
}

type marked struct {
	error
	verdict verdict
}

func (m *marked) Unwrap() error { return m.error }

func mark(err error, v verdict) error {
	if err == nil {
		return nil
	}
	return &marked{err, v}
}

// verdictOf reads the verdict from what an attempt returned: the outermost mark
// wins, an unmarked error is worth a retry. Work that the daemon itself cut short
// at the shutdown timeout goes back without using up an attempt, unless its error
// says that no attempt can succeed.
func verdictOf(ctx context.Context, err error) verdict {
	if err == nil {
		return verdict{action: acknowledge}
	}
	m, isMarked := errors.AsType[*marked](err)
	if errors.Is(err, ErrDatabase) {
		isMarked = false // whatever the processor makes of it
	}
	if isMarked && m.verdict.action == deadLetter {
		return m.verdict
	}
	if errors.Is(context.Cause(ctx), ErrShutdown) {
		return verdict{action: requeue}
	}
	v := verdict{action: retryLater}
	if isMarked {
		v = m.verdict
	}
	v.uncounted = v.uncounted || errors.Is(err, ErrDatabase)
	return v
}
