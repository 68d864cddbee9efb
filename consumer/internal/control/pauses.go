package control

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/internal/broker"
)

const (
	// lookEvery is how often what is paused is looked at, and everything where requests
	// are not heard.
	lookEvery = time.Minute
	// lookSeldom is how often everything is looked at otherwise: a broker logs each look
	// at a queue that is not there as an error.
	lookSeldom = 15 * time.Minute
	// emptyFor is how long a pause's queue may look empty, because others look at it,
	// until the pause counts as ended.
	emptyFor   = 4 * time.Second
	lookAgain  = 400 * time.Millisecond
	lookWithin = 5 * time.Second
	// lookLate is how often a pause is looked at that should have ended by this clock.
	lookLate = 10 * time.Second
	// spread is over how long daemons look that have been told at the same moment.
	spread = 2 * time.Second
)

// A pause is what is known of that of one queue.
type pause struct {
	told       bool      // what is known of it is hearsay, and has to be looked at
	emptySince time.Time // since when its queue looks empty in this session; zero: it does not
	refused    string    // who is not obeyed, and has left something there
	faults     int       // looks in a row that have failed
}

// unseen is a pause whose message another daemon has in hand, which looks at it, too.
var unseen = &fleet.Pause{Why: "not known yet: another daemon is looking at the pause, too"}

// lookIn is in how long the pauses have to be looked at.
func (c *Control) lookIn() time.Duration {
	every := lookSeldom
	if c.asked == nil {
		every = lookEvery
	}
	for i, q := range c.Queues {
		switch p := q.Halt.Paused(); {
		case c.pauses[i].faults > 0: // its queue may be without a leader yet, or it may not look
			every = min(every, lookEvery, lookAgain<<min(c.pauses[i].faults, 10))
		case c.pauses[i].told, !c.pauses[i].emptySince.IsZero():
			every = min(every, lookAgain+rand.N(lookAgain))
		case p != nil && !p.Until.IsZero():
			left := time.Until(p.Until)
			if left < -lookLate { // by the broker's clock it is not over yet
				left = lookLate
			}
			every = min(every, lookEvery, max(left, lookAgain)+rand.N(lookAgain))
		case p != nil:
			every = min(every, lookEvery)
		}
	}
	return every
}

// heed does at once what somebody says of a pause, and looks a little later whether that
// is so.
func (c *Control) heed(r fleet.Request) error {
	for i, q := range c.Queues {
		if q.Name == r.Queue { // or it is another daemon's
			c.pauses[i].told, c.pauses[i].emptySince = true, time.Time{}
			c.set(q, r.Pause)
			c.looking.Reset(lookAgain + rand.N(spread))
		}
	}
	return nil
}

// set has the queue paused or, with nil, resumed.
func (c *Control) set(q Queue, p *fleet.Pause) {
	before := q.Halt.Paused()
	q.Halt.Pause(p)
	switch {
	case p != nil && (before == nil || before == unseen && p != unseen):
		c.Log.Warn("the queue is paused: nothing is taken from it until it is resumed", "queue", q.Name, "by", p.By, "why", p.Why, "until", until(p))
	case before != nil && p == nil:
		c.Log.Info("the queue is resumed", "queue", q.Name)
	}
}

func until(p *fleet.Pause) string {
	if p.Until.IsZero() {
		return "it is resumed"
	}
	return p.Until.UTC().Format(time.RFC3339)
}

// lookFirst looks which queues are paused over a session that nobody uses yet. After the
// restart of a node, queues are without a leader for a moment: it looks again for as long as
// a session is held up for it.
func (c *Control) lookFirst(ctx context.Context) {
	for i := range c.pauses {
		c.pauses[i].emptySince = time.Time{} // what was seen before says nothing of the time between
	}
	until := time.Now().Add(lookWithin - time.Second)
	for again := c.look(ctx, true); again && time.Now().Before(until) && !c.session.IsLost(); again = c.look(ctx, false) {
		if !broker.Sleep(ctx, lookAgain) {
			return
		}
	}
}

// look looks which queues are paused: at those that may be, or at all of them. What cannot
// be looked at stays as it was. It tells whether it may soon be possible to look at those.
func (c *Control) look(ctx context.Context, all bool) (again bool) {
	now := time.Now()
	all = all || c.asked == nil || now.Sub(c.looked) >= lookSeldom
	if all {
		c.looked = now
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lookWithin, errNoLook)
	defer cancel()
	failed := func(p *pause, q Queue, err error) {
		p.told, p.emptySince = false, time.Time{} // it stays as it is, or was told
		p.faults++
		err = broker.Explain(err)
		again = again || !broker.IsLasting(err)
		level := slog.LevelDebug
		if p.faults == 1 && broker.IsLasting(err) {
			level = slog.LevelWarn
		}
		c.Log.Log(ctx, level, "cannot look whether the queue is paused, it stays as it is", "queue", q.Name, "error", err)
	}
	err := c.session.Trial.Do(ctx, func(*broker.Conn) error { // one connection for all of them
		for i, q := range c.Queues {
			if p := c.pauses[i]; !all && q.Halt.Paused() == nil && !p.told && p.emptySince.IsZero() && p.faults == 0 {
				continue
			}
			if err := c.lookAt(ctx, q, &c.pauses[i]); err != nil {
				failed(&c.pauses[i], q, err)
			}
		}
		return nil
	})
	for i := range c.pauses {
		if err != nil { // there is no connection to look over
			failed(&c.pauses[i], c.Queues[i], err)
		}
	}
	c.looking.Reset(c.lookIn())
	return again
}

// lookAt looks whether one queue is paused. A queue without its leader has a broker end
// the connection of whoever looks into it.
func (c *Control) lookAt(ctx context.Context, q Queue, p *pause) error {
	return c.session.Trial.Do(ctx, func(conn *broker.Conn) error {
		state, err := conn.LookAtPause(ctx, q.Name, c.counts)
		if err != nil {
			return err
		}
		if c.take(q, p, state) {
			return conn.Unpause(q.Name) // it has ended by itself; who may not do that leaves it
		}
		return nil
	})
}

var errNoLook = fmt.Errorf("no answer within %v", lookWithin)

// take makes of what was found what is so. It tells whether the pause has ended by itself.
func (c *Control) take(q Queue, p *pause, state broker.PauseState) (ended bool) {
	if state.Refused != p.refused && state.Refused != "" {
		c.Log.Warn("refused to pause the queue: who has left a message for that is not one of WARREN_CONTROL_USERS", "queue", q.Name, "user", state.Refused)
	}
	told := p.told
	p.refused, p.faults, p.told = state.Refused, 0, false
	known, now := q.Halt.Paused(), time.Now()
	switch {
	case state.Pause != nil:
		p.emptySince = time.Time{}
		c.set(q, state.Pause)
	case !state.There, known == nil && state.Refused != "":
		p.emptySince = time.Time{}
		c.set(q, nil)
	case p.emptySince.IsZero(): // or somebody else is looking
		p.emptySince = now
		if known == nil && !told {
			c.set(q, unseen)
		}
	case now.Sub(p.emptySince) > emptyFor, known != nil && !known.Until.IsZero() && now.After(known.Until):
		p.emptySince = time.Time{}
		c.set(q, nil)
		return true
	}
	return false
}
