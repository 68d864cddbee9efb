// Package rest says how long a channel whose consumer has ended must stay open, so that
// what was settled on it is not lost.
//
// A quorum queue takes 32 commands of a channel at once. What is settled beyond that, the
// broker's end of the channel keeps until the queue has answered, and forgets it if it is
// closed before: finished work is repeated. No method of AMQP waits for that answer, not
// even the commit of a transaction, which is confirmed at once. But the end of a consumer
// has the queue write and answer, so that it shows how long that takes.
package rest

import (
	"cmp"
	"time"
)

const (
	// often is how many times as long as the end of the consumer took the rest is: the
	// queue answers twice in it, and others may keep it from that for a while.
	often = 10
	least = 250 * time.Millisecond
	most  = 5 * time.Second
)

// A Rest is that of one channel. The zero Rest needs none.
type Rest struct {
	Most time.Duration // that it is long; 0: 5 s

	settled time.Time // the last time
	asked   time.Time // for the end of the consumer
	length  time.Duration
}

// Settled takes note that a delivery was settled.
func (r *Rest) Settled(now time.Time) { r.settled = now }

// EndAsked takes note that the broker was asked to hand out no more.
func (r *Rest) EndAsked(now time.Time) { r.asked = now }

// Ended takes note that it hands out no more, as it was asked to.
func (r *Rest) Ended(now time.Time) {
	r.length = min(max(often*now.Sub(r.asked), least), cmp.Or(r.Most, most))
}

// Until is when the channel has rested for long enough; long ago if nothing was settled. It
// means nothing while its consumer has not ended.
func (r *Rest) Until() time.Time { return r.settled.Add(r.length) }

// Over tells whether the broker has taken all that was settled, and may close the channel.
func (r *Rest) Over(now time.Time) bool {
	return r.settled.IsZero() || r.length > 0 && !now.Before(r.Until())
}
