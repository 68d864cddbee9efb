// Package brake slows a queue down whose messages fail because what their processor
// depends on looks down: then they stay in the queue, but for one at a time that tries
// whether it is back.
package brake

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/warrenmq/warren/consumer/internal/outage"
)

const (
	// ProbeEvery is how long it takes from one failed probe to the next: in ten minutes
	// of outage there are 150 of them, and the end of one is noticed within 5 s.
	ProbeEvery = 4 * time.Second
	// Unavailables is how many attempts in a row must say that what they need is down: so
	// few that little is tried in vain, and more than the slots that one short fault meets.
	Unavailables = 10
	// Failures is how many messages in a row must fail for whatever reason at their first
	// attempt. Half of them failing for reasons of their own make such a run once in two
	// thousand million messages; nine tenths, after some two hundred.
	Failures = 30
	// step is how long speed takes to double when what was down is back.
	step = 200 * time.Millisecond
)

// An Outcome is what an attempt tells of what the processor depends on.
type Outcome int

// The outcomes.
const (
	Ignored     Outcome = iota // nothing: the message is at fault, or was not tried
	Success                    // it is up
	Failed                     // it may be down, or the message be at fault
	Unavailable                // it is down, as the processor says
)

// A Brake is that of one queue. It may be used by any number of goroutines.
type Brake struct {
	limit int
	log   *slog.Logger

	braked  atomic.Bool  // what the processor depends on looks down
	slowed  atomic.Bool  // or is back, but not at full speed yet
	failing atomic.Bool  // the last that counts has failed
	changes atomic.Int64 // of the breaker's state
	outage  outage.Outage

	mu          sync.Mutex
	breaker     *gobreaker.TwoStepCircuitBreaker[struct{}] // nil: the brake is off
	unavailable int                                        // in a row
	fault       error                                      // of the last attempt that counts
	probeAt     time.Time
	closedAt    time.Time
}

// New makes the brake of a queue that is worked by up to limit slots. One that is off
// never slows anything down.
func New(on bool, limit int, log *slog.Logger) *Brake {
	b := &Brake{limit: limit, log: log, outage: outage.Outage{Texts: 1}}
	if on {
		b.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			MaxRequests:   1,
			Timeout:       ProbeEvery,
			ReadyToTrip:   b.looksDown,
			IsExcluded:    func(err error) bool { return errors.Is(err, errIgnored) },
			OnStateChange: func(_ string, _, to gobreaker.State) { b.changed(to) },
		})
	}
	return b
}

var (
	errIgnored = errors.New("tells nothing")
	errCounts  = errors.New("counts")
)

// looksDown is asked after each failure. While speed comes back it takes fewer of them.
// Its caller holds mu, as that of changed does.
func (b *Brake) looksDown(c gobreaker.Counts) bool {
	few := Unavailables
	if slots, _ := b.speed(); slots < b.limit {
		few = min(few, 2*slots)
	}
	return b.unavailable >= few || c.ConsecutiveFailures >= Failures
}

func (b *Brake) changed(to gobreaker.State) {
	b.changes.Add(1)
	switch to {
	case gobreaker.StateOpen:
		b.probeAt = time.Now().Add(ProbeEvery + time.Millisecond) // the breaker's own instant has passed then
		b.outage.Begin(b.log.With("probe_every", ProbeEvery.String()), slog.LevelWarn,
			"what the processor depends on looks down: messages stay in the queue, one at a time is tried until one succeeds", b.fault)
		b.braked.Store(true)
		b.slowed.Store(true)
	case gobreaker.StateClosed:
		b.closedAt = time.Now()
		b.braked.Store(false)
		b.outage.End(b.log, "what the processor depends on is back, the queue is worked again")
	}
}

// An Attempt is one that is being made.
type Attempt struct {
	brake   *Brake
	first   bool
	changes int64
	done    func(error) // of a probe
}

// Begin tells of an attempt that begins, the first of its message or another one. A
// message that fails once more says little, since it may well be at fault: unless it is a
// probe, it does not count.
func (b *Brake) Begin(first bool) Attempt {
	a := Attempt{brake: b, first: first, changes: b.changes.Load()}
	if !b.braked.Load() {
		return a
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if done, err := b.breaker.Allow(); err == nil {
		a.done, a.changes = done, b.changes.Load()
	}
	return a
}

// End tells once what the attempt has come to, with the error that it failed with. As
// long as nothing fails, it takes no lock.
func (a Attempt) End(o Outcome, err error) {
	b, done := a.brake, a.done
	if b.breaker == nil || done == nil && (o == Ignored || o == Success && !b.failing.Load()) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.changes != b.changes.Load() {
		return // it tells of before
	}
	if done == nil {
		var refused error
		if done, refused = b.breaker.Allow(); refused != nil {
			return // it is no probe
		}
	}
	switch {
	case o == Success:
		b.unavailable = 0
		b.failing.Store(false)
		done(nil)
	case o == Unavailable || o == Failed && (a.first || a.done != nil):
		if o == Unavailable {
			b.unavailable++
		}
		b.fault = err
		b.failing.Store(true)
		done(errCounts)
	default:
		done(errIgnored)
	}
}

// A Pace is how fast a queue may be worked.
type Pace struct {
	// Slots is how many messages may be worked at once; none while a probe is not due yet.
	Slots int
	// Braked is true if what the processor depends on looks down: the one slot is for a
	// probe, whatever else is still being worked.
	Braked bool
	// Until is when that may change by itself. Zero means never.
	Until time.Time
}

// Pace returns how fast the queue may be worked now.
func (b *Brake) Pace() Pace {
	if !b.slowed.Load() {
		return Pace{Slots: b.limit}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.breaker.State() {
	case gobreaker.StateOpen:
		return Pace{Braked: true, Until: b.probeAt}
	case gobreaker.StateHalfOpen:
		return Pace{Slots: 1, Braked: true}
	}
	slots, until := b.speed()
	if slots == b.limit {
		b.slowed.Store(false)
	}
	return Pace{Slots: slots, Until: until}
}

// speed is how many slots there are while nothing looks down, and until when.
func (b *Brake) speed() (int, time.Time) {
	slots := 2 // that which has succeeded is the first
	for at := b.closedAt.Add(step); slots < b.limit; at = at.Add(step) {
		if at.After(time.Now()) {
			return slots, at
		}
		slots *= 2
	}
	return b.limit, time.Time{}
}

// Braked tells whether what the processor depends on looks down.
func (b *Brake) Braked() bool { return b.braked.Load() }

// Status is since when what the processor depends on has looked down, and the error that
// says so last. Zero means that it does not.
func (b *Brake) Status() (since time.Time, fault string) { return b.outage.Since(), b.outage.Reason() }
