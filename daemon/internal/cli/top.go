package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/jsonvalue"
	"github.com/warrenmq/warren/daemon/internal/legible"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

const (
	// topEvery is how often the screen is written at most, and topLooks how often the
	// broker is asked for the lengths of queues.
	topEvery = 500 * time.Millisecond
	topLooks = 4 * time.Second
	// topAttempts and topFailures are how many of each queue every daemon reports.
	topAttempts = 20
	topFailures = 5
	// topBegin is how long it takes until there are rates.
	topBegin = fleet.WatchEvery + topEvery
)

type topCommand struct {
	Queues []string `arg:"" optional:"" name:"queue" help:"Only these queues."`
	Frames int      `short:"n" placeholder:"N" help:"Print N times what there is, and end; without a terminal, once if it is not given."`
	format
	fleetCommand
}

// A topFrame is what is seen at one moment.
type topFrame struct {
	At       time.Time         `json:"at"`
	Daemons  int               `json:"daemons"`
	Queues   []topQueue        `json:"queues"`
	Attempts []fleet.AttemptOf `json:"attempts"`
	Failures []fleet.FailureOf `json:"failures"`
	Notes    []string          `json:"notes"`
}

type topQueue struct {
	fleet.QueueSum
	Ready     int `json:"ready"`
	Dead      int `json:"dead"`
	Consumers int `json:"consumers"`
}

// topState is what has been seen.
type topState struct {
	view   fleet.View
	queues []string // that are wanted; none: all
	link   *topLink // nil: there is none, in tests

	mu     sync.Mutex
	states map[string]fleet.QueueState // by queue, dead-letter queues too
}

// Run shows the fleet until q is pressed, or prints so many frames.
func (t *topCommand) Run(ctx context.Context, a App) error {
	if t.Frames < 0 {
		return fmt.Errorf("--frames is %d; it must be positive", t.Frames)
	}
	nodes, user, err := settings.Broker()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	link := &topLink{dial: func(ctx context.Context) (*fleet.Client, error) {
		ctx, late := context.WithCancelCause(ctx) // the client ends with it, in time or by then
		timer := time.AfterFunc(t.Timeout, func() { late(fmt.Errorf("no answer within %v; is the broker up?", t.Timeout)) })
		defer timer.Stop()
		c, err := fleet.Dial(ctx, a.Name, user, nodes)
		if err != nil {
			err = cmp.Or(context.Cause(ctx), err)
			late(nil)
		}
		return c, err
	}}
	if link.client, err = link.dial(ctx); err != nil {
		return err
	}

	state := &topState{queues: t.Queues, states: make(map[string]fleet.QueueState), link: link}
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop(nil)
	watching.Go(func() {
		stop(link.watch(ctx, fleet.Request{Attempts: topAttempts, Failures: topFailures}, func(an fleet.Answer) { state.view.Add(an, time.Now(), fleet.WatchEvery) }))
	})
	watching.Go(func() { state.look(ctx) })

	in, isIn := a.In.(*os.File)
	out, isOut := a.Out.(*os.File)
	if t.Frames == 0 && t.Output == "table" && isIn && isOut && onTerminal(in) && onTerminal(out) {
		err = t.live(ctx, state, in, out)
	} else {
		err = t.print(ctx, a, state)
	}
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// print prints frames one after the other.
func (t *topCommand) print(ctx context.Context, a App, state *topState) error {
	wait := topBegin
	for i := range max(t.Frames, 1) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wait = fleet.WatchEvery
		f := state.frame(time.Now())
		if t.Output != "table" {
			text, err := jsonvalue.Marshal(f)
			if err == nil {
				_, err = fmt.Fprintf(a.Out, "%s\n", text)
			}
			if err != nil {
				return err
			}
			continue
		}
		if i > 0 {
			fmt.Fprintln(a.Out)
		}
		lines, _ := f.lines(widthOf(a.Out), 1000, -1)
		for _, line := range lines {
			if _, err := fmt.Fprintln(a.Out, strings.TrimPrefix(line, "\t")); err != nil {
				return err
			}
		}
	}
	return nil
}

// look asks the broker for the lengths of queues, until ctx ends.
func (s *topState) look(ctx context.Context) {
	missing := make(map[string]time.Time) // and are not asked for again at once
	for {
		c, _ := s.link.current()
		for _, q := range s.view.Queues() {
			for _, name := range []string{q.Queue, q.Queue + ".dead"} {
				if c == nil || !s.wants(q.Queue) || time.Since(missing[name]) < time.Minute {
					continue
				}
				var state fleet.QueueState
				var err error
				if state.Messages, state.Consumers, err = c.Count(name); errors.Is(err, fleet.ErrNoQueue) {
					state.Missing, missing[name] = true, time.Now()
				} else if err != nil {
					continue // the connection is lost, as whoever watches will say
				}
				state.Queue = name
				s.mu.Lock()
				s.states[name] = state
				s.mu.Unlock()
			}
		}
		wait := topLooks
		if len(s.view.Queues()) == 0 {
			wait = topEvery
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (s *topState) wants(queue string) bool {
	return len(s.queues) == 0 || slices.Contains(s.queues, queue)
}

// frame is what is to be seen at now.
func (s *topState) frame(now time.Time) topFrame {
	answers := s.view.Answers(now)
	f := topFrame{At: now.UTC(), Daemons: len(answers), Queues: []topQueue{}, Attempts: []fleet.AttemptOf{}, Failures: []fleet.FailureOf{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	var states []fleet.QueueState
	for _, q := range s.view.Queues() {
		if !s.wants(q.Queue) {
			continue
		}
		state, known := s.states[q.Queue]
		f.Queues = append(f.Queues, topQueue{q, state.Messages, s.states[q.Queue+".dead"].Messages, state.Consumers})
		if state.Paused = q.Paused; known {
			states = append(states, state)
		}
	}
	for _, at := range s.view.Attempts(1000) {
		if s.wants(at.Queue) {
			f.Attempts = append(f.Attempts, at)
		}
	}
	for _, fa := range s.view.Failures(1000) {
		if s.wants(fa.Queue) {
			f.Failures = append(f.Failures, fa)
		}
	}
	f.Notes = emptyIfNil(fleet.Notes(answers, states, now))
	if _, fault := s.link.current(); fault != nil {
		f.Notes = slices.Insert(f.Notes, 0, fmt.Sprintf("no connection: %v; it is tried again and again", fault))
	}
	return f
}

// A topItem is what can be chosen.
type topItem struct {
	queue   string
	attempt *fleet.AttemptOf // nil: the queue is
}

// lines are those of a screen of that size, with what can be chosen on them; chosen is the
// one that is marked, -1 is none. Titles begin with a tab.
func (f *topFrame) lines(width, height, chosen int) (lines []string, items []topItem) {
	var done float64
	var inFlight int64
	for _, q := range f.Queues {
		done += q.Rates["ack"]
		inFlight += q.InFlight
	}
	add := func(text string) { lines = append(lines, fit(text, width)) }
	add(fmt.Sprintf("%s  %s  %s in flight  %s done/s", f.At.Local().Format(time.TimeOnly), plural(f.Daemons, "daemon", "daemons"), strconv.FormatInt(inFlight, 10), rate(done)))
	for i, note := range f.Notes {
		if i == 3 && len(f.Notes) > 4 {
			add(fmt.Sprintf("! and %d more that stand out: ps lists them", len(f.Notes)-i))
			break
		}
		add("! " + legible.Line(note))
	}
	mark := func(item topItem) string {
		items = append(items, item)
		if len(items)-1 == chosen {
			return "> "
		}
		return "  "
	}
	// Queues get half of what is left, attempts half of the rest.
	part := func(n, of int) int { return min(n, max(of, 3)) }
	left := height - len(lines) - 1 - 3*2
	shown := part(len(f.Queues), left/2)
	names := max(12, min(width-66, 40))
	lines = append(lines, "", "\t"+fit(fmt.Sprintf("  %-*s %7s %6s %7s %9s %6s %7s %6s", names, "QUEUE", "READY", "DEAD", "DAEMONS", "FLIGHT", "DONE/S", "RETRY/S", "DEAD/S"), width))
	for _, q := range f.Queues[:shown] {
		add(strings.TrimRight(fmt.Sprintf("%s%-*s %7d %6d %7d %9s %6s %7s %6s  %s", mark(topItem{queue: q.Queue}), names, fit(legible.Line(q.Queue), names), q.Ready, q.Dead, q.Daemons,
			fmt.Sprintf("%d/%d", q.InFlight, q.Slots), rate(q.Rates["ack"]), rate(q.Rates["retry"]), rate(q.Rates["dead"]), q.words()), " "))
	}
	if n := len(f.Queues) - shown; n > 0 {
		add(fmt.Sprintf("  and %d more", n))
	}
	left -= shown
	shown = part(len(f.Attempts), (left+1)/2)
	lines = append(lines, "", "\t"+fit(fmt.Sprintf("  %4s %3s %-24s %-20s %s", "AGE", "TRY", "IN FLIGHT", "QUEUE", "DAEMON"), width))
	for i := range f.Attempts[:shown] {
		at := &f.Attempts[i]
		add(fmt.Sprintf("%s%4s %3d %-24s %-20s %s", mark(topItem{at.Queue, at}), legible.Short(at.Age), at.Attempt.Attempt, fit(legible.Line(cmp.Or(at.MessageID, "(no id)")), 24), fit(legible.Line(at.Queue), 20), legible.Line(at.Daemon)))
	}
	left -= shown
	shown = part(len(f.Failures), left)
	lines = append(lines, "", "\t"+fit(fmt.Sprintf("  %4s %3s %-5s %-16s %-14s %s", "AGO", "TRY", "FATE", "FAILED", "QUEUE", "ERROR"), width))
	for _, fa := range f.Failures[:shown] {
		add(fmt.Sprintf("  %4s %3d %-5s %-16s %-14s %s", legible.Short(fa.Ago), fa.Attempt, fit(legible.Line(fa.Verdict), 5), fit(legible.Line(cmp.Or(fa.MessageID, "(no id)")), 16), fit(legible.Line(fa.Queue), 14), legible.Line(fa.Error)))
	}
	return lines, items
}

// words say what is special about a queue.
func (q topQueue) words() string {
	var out []string
	if q.Paused != nil {
		out = append(out, "paused")
	}
	for _, c := range []struct {
		n    int
		what string
	}{{q.Quiet, "quiet"}, {q.Braked, "braked"}, {q.Unwell, "unwell"}} {
		if c.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	return strings.Join(out, ", ")
}

// rate is a number a second in few characters.
func rate(r float64) string {
	switch {
	case r == 0:
		return "0"
	case r < 10:
		return strconv.FormatFloat(r, 'f', 1, 64)
	}
	return strconv.FormatFloat(r, 'f', 0, 64)
}
