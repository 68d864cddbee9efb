// Package unsettled acknowledges the deliveries of one channel in as few frames as can be.
package unsettled

import (
	"iter"
	"slices"
	"sort"
	"time"

	"github.com/warrenmq/warren/internal/failpoint"
)

// Deliveries are those of one channel that the broker waits to hear of, in the order of
// their tags, each with the job that was made of it. There are never more than the
// prefetch. Zero is none.
type Deliveries[J any] struct {
	entries  []entry[J]
	finished int // of them
	left     int // of those, by a flush
	// The broker counts tags from 1. While fewer were added than the highest tag says,
	// some have not been read yet.
	added, highest uint64
}

type entry[J any] struct {
	tag      uint64
	job      J
	finished bool // to be acknowledged at one of the next flushes
	met      bool // by a flush that left it
}

// Len is how many the broker waits to hear of, of those that have been read.
func (u *Deliveries[J]) Len() int { return len(u.entries) }

// Finished is how many of them are to be acknowledged.
func (u *Deliveries[J]) Finished() int { return u.finished }

// Fresh is how many of them no flush has left yet.
func (u *Deliveries[J]) Fresh() int { return u.finished - u.left }

// Empty tells whether the broker waits to hear of none.
func (u *Deliveries[J]) Empty() bool { return len(u.entries) == 0 }

// All returns the jobs of all deliveries, the oldest first.
func (u *Deliveries[J]) All() iter.Seq[J] {
	return func(yield func(J) bool) {
		for _, e := range u.entries {
			if !yield(e.job) {
				return
			}
		}
	}
}

// Unfinished gives the jobs of all deliveries that are not finished to f, the oldest first.
func (u *Deliveries[J]) Unfinished(f func(J)) {
	for _, e := range u.entries {
		if !e.finished {
			f(e.job)
		}
	}
}

// Add takes note of a delivery. Its tag is mostly higher than any before; but a channel
// can have two consumers for a moment, and what the broker sends to one is not read in
// order with what it sends to the other.
func (u *Deliveries[J]) Add(tag uint64, j J) {
	u.added++
	u.highest = max(u.highest, tag)
	u.entries = slices.Insert(u.entries, u.find(tag), entry[J]{tag: tag, job: j})
}

// find returns the place of a tag, also of one that is not there yet.
func (u *Deliveries[J]) find(tag uint64) int {
	return sort.Search(len(u.entries), func(i int) bool {
		return u.entries[i].tag >= tag
	})
}

// Finish marks the delivery as one to acknowledge.
func (u *Deliveries[J]) Finish(tag uint64) {
	u.entries[u.find(tag)].finished = true
	u.finished++
}

// Remove forgets a delivery that was settled in another way.
func (u *Deliveries[J]) Remove(tag uint64) {
	i := u.find(tag)
	u.entries = append(u.entries[:i], u.entries[i+1:]...)
}

// Flush acknowledges what is finished: all from the oldest on with one multiple-ack; what
// is finished behind an unfinished one, or one that has not been read, by itself, though
// only if all is true or a flush before has left it. By then the older ones have mostly
// finished, too: at full speed that takes one frame for fifty messages in place of seven.
// Flush gives the jobs that ack failed for to lost, the others to sent.
func (u *Deliveries[J]) Flush(all bool, ack func(tag uint64, multiple bool) error, sent, lost func(J)) {
	if u.finished == 0 {
		return
	}
	failpoint.Here(failpoint.AckHeld)
	defer failpoint.Here(failpoint.AckSent)
	run := 0
	for u.added == u.highest && run < len(u.entries) && u.entries[run].finished {
		run++
	}
	if run > 0 {
		// Every older delivery of the channel has been read and is finished, so that
		// multiple reaches none that is still to be worked.
		then := sent
		if err := ack(u.entries[run-1].tag, run > 1); err != nil {
			then = lost
		}
		for _, e := range u.entries[:run] {
			then(e.job)
		}
	}
	u.finished, u.left = 0, 0
	rest := u.entries[:0]
	for _, e := range u.entries[run:] {
		switch {
		case !e.finished:
			rest = append(rest, e)
		case !all && !e.met:
			e.met = true
			rest = append(rest, e)
			u.finished++
			u.left++
		default:
			if err := ack(e.tag, false); err != nil {
				lost(e.job)
			} else {
				sent(e.job)
			}
		}
	}
	clear(u.entries[len(rest):])
	u.entries = rest
}

// gather is how long finished deliveries are gathered for one multiple-ack while
// acknowledgements follow each other faster than that.
const gather = 2 * time.Millisecond

// A Pace says when to acknowledge what is finished. One that comes by itself is not held
// back. Zero is one of nothing yet.
type Pace struct {
	At   <-chan time.Time // when to ask anew; nil: nothing is held back
	sent time.Time
}

// Due tells whether to acknowledge now.
func (p *Pace) Due() bool { return p.At == nil && time.Since(p.sent) >= gather }

// Sent says that acknowledgements have been sent now.
func (p *Pace) Sent() { p.At, p.sent = nil, time.Now() }

// Wait says that some are held back.
func (p *Pace) Wait() {
	if p.At == nil {
		p.At = time.After(gather - time.Since(p.sent))
	}
}
