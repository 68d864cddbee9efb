package control

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/internal/brake"
	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/meters"
)

func controlOf(queue string) (*Control, Queue) {
	log := slog.New(slog.DiscardHandler)
	q := Queue{Queue: meters.NewQueue(queue, 1, 5, brake.New(true, 1, log))}
	return New(Config{Queues: []Queue{q}, Log: log}), q
}

// What is found in a pause's queue decides, not what has been said or this host's clock.
func TestWhatIsFoundOfAPause(t *testing.T) {
	past := &fleet.Pause{By: "ops", Until: time.Now().Add(-time.Hour)}
	there := broker.PauseState{There: true}
	for name, c := range map[string]struct {
		known         *fleet.Pause
		emptyFor      time.Duration // zero: it has not looked empty before
		found         broker.PauseState
		paused, ended bool
	}{
		"none":                                  {found: broker.PauseState{}},
		"one":                                   {found: broker.PauseState{There: true, Pause: &fleet.Pause{}}, paused: true},
		"one that should be over by this clock": {found: broker.PauseState{There: true, Pause: past}, paused: true},
		"it has been resumed":                   {known: &fleet.Pause{}, found: broker.PauseState{}},
		"a stranger's":                          {found: broker.PauseState{There: true, Refused: "eve"}},
		"a stranger's beside one that is held":  {known: &fleet.Pause{}, found: broker.PauseState{There: true, Refused: "eve"}, paused: true},
		"another daemon looks":                  {known: &fleet.Pause{}, found: there, paused: true},
		"another daemon looks at first":         {found: there, paused: true},
		"it still looks empty":                  {known: &fleet.Pause{}, emptyFor: emptyFor / 2, found: there, paused: true},
		"it is empty":                           {known: &fleet.Pause{}, emptyFor: 2 * emptyFor, found: there, ended: true},
		"it is empty, and over by this clock":   {known: past, emptyFor: time.Millisecond, found: there, ended: true},
	} {
		t.Run(name, func(t *testing.T) {
			control, q := controlOf("emails")
			q.Halt.Pause(c.known)
			p := &control.pauses[0]
			if c.emptyFor > 0 {
				p.emptySince = time.Now().Add(-c.emptyFor)
			}
			if ended := control.take(q, p, c.found); ended != c.ended || q.Halt.On() != c.paused {
				t.Errorf("got ended %t and paused %t, want %t and %t", ended, q.Halt.On(), c.ended, c.paused)
			}
		})
	}
}

// What could not be looked at is looked at again soon, and less often if that goes on.
func TestLooksThatFail(t *testing.T) {
	control, _ := controlOf("emails")
	for faults, want := range map[int]time.Duration{1: 2 * lookAgain, 2: 4 * lookAgain, 9: lookEvery, 1000: lookEvery} {
		control.pauses[0].faults = faults
		if got := control.lookIn(); got != want {
			t.Errorf("after %d faults: in %v, want %v", faults, got, want)
		}
	}
	control.take(control.Queues[0], &control.pauses[0], broker.PauseState{})
	if control.pauses[0].faults != 0 {
		t.Error("a look that has succeeded does not count as such")
	}
}

// A pause is looked at when it should end, and not all the time if clocks differ.
func TestWhenPausesAreLookedAt(t *testing.T) {
	for name, c := range map[string]struct {
		pause       *fleet.Pause
		least, most time.Duration
	}{
		"none":             {nil, lookEvery, lookEvery}, // nothing is heard here
		"without end":      {&fleet.Pause{}, lookEvery, lookEvery},
		"in half a minute": {&fleet.Pause{Until: time.Now().Add(30 * time.Second)}, 20 * time.Second, 31 * time.Second},
		"just over":        {&fleet.Pause{Until: time.Now()}, lookAgain, 2 * lookAgain},
		"an hour over":     {&fleet.Pause{Until: time.Now().Add(-time.Hour)}, lookLate, 2 * lookLate},
	} {
		control, q := controlOf("emails")
		q.Halt.Pause(c.pause)
		if got := control.lookIn(); got < c.least || got > c.most {
			t.Errorf("%s: in %v, want from %v to %v", name, got, c.least, c.most)
		}
	}
}

// What was said long ago, as before an outage of the broker, is not that the queue has looked
// empty since: the first look may be in the moment in which another daemon has its message.
func TestAPauseThatWasSaidIsLookedAtTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, q := controlOf("emails")
		c.looking = time.NewTimer(time.Hour)
		if err := c.heed(fleet.Request{Queue: "emails", Pause: &fleet.Pause{By: "ops"}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		for _, want := range []bool{false, true} {
			ended := c.take(q, &c.pauses[0], broker.PauseState{There: true})
			if ended != want || (q.Halt.Paused() == nil) != want {
				t.Errorf("ended: %v, paused: %v; want it to have ended: %v", ended, q.Halt.Paused(), want)
			}
			time.Sleep(emptyFor + time.Second)
		}
	})
}
