package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

// obeyedWithin is how long daemons may take to leave a queue, or to come back.
const obeyedWithin = 3 * time.Second

type fleetCommand struct {
	Timeout time.Duration `default:"30s" placeholder:"DURATION" help:"How long to wait for the broker (30s)."`
}

// with calls do with a connection of an operator, and a context that ends at the timeout.
// Whoever asks a person something does so between two of these.
func (f fleetCommand) with(ctx context.Context, a App, do func(context.Context, *fleet.Client) error) error {
	nodes, user, err := settings.Broker()
	if err != nil {
		return err
	}
	return within(ctx, f.Timeout, func(ctx context.Context) error {
		c, err := fleet.Dial(ctx, a.Name, user, nodes)
		if err != nil {
			return err
		}
		defer c.Close()
		return do(ctx, c)
	})
}

// within calls do with a context that ends at the timeout. Once that has ended, the error is why,
// unless do says itself what has been done in part.
func within(ctx context.Context, timeout time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v; is the broker up?", timeout))
	defer cancel()
	err := do(ctx)
	if _, partial := errors.AsType[*Partial](err); partial {
		return err
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return cause
	}
	return err
}

type pauseCommand struct {
	Queues []string      `arg:"" name:"queue" help:"The work queues."`
	For    time.Duration `placeholder:"DURATION" help:"How long, such as 1h; without it, until they are resumed."`
	Why    string        `placeholder:"TEXT" help:"The reason, for everybody who finds the queues paused."`
	acting
	fleetCommand
}

// Run pauses the queues, and waits until their consumers have left.
func (p *pauseCommand) Run(ctx context.Context, a App) error {
	if p.For < 0 {
		return fmt.Errorf("--for is %v; it must be positive", p.For)
	}
	lasts := "until resumed"
	if p.For > 0 {
		lasts = "for " + p.For.String()
	}
	what := make([]string, len(p.Queues))
	if err := p.with(ctx, a, func(_ context.Context, c *fleet.Client) error {
		for i, queue := range p.Queues {
			messages, consumers, err := c.Count(queue)
			if errors.Is(err, fleet.ErrNoQueue) {
				return fmt.Errorf("there is no queue %s: check the name", printable(queue))
			} else if err != nil {
				return err
			}
			what[i] = fmt.Sprintf("%s (%s, %s ready)", printable(queue), plural(consumers, "consumer", "consumers"), plural(messages, "message", "messages"))
		}
		return nil
	}); err != nil {
		return err
	}
	if on, err := p.proceed(a, fmt.Sprintf("pause %s %s", strings.Join(what, ", "), lasts)); !on {
		return err
	}
	return p.with(ctx, a, func(ctx context.Context, c *fleet.Client) error { return p.pause(ctx, a, c, lasts) })
}

// pause pauses the queues, waits, and says what has come of it.
func (p *pauseCommand) pause(ctx context.Context, a App, c *fleet.Client, lasts string) error {
	left := 0
	for _, queue := range p.Queues {
		if err := c.Pause(ctx, queue, p.Why, p.For); err != nil {
			return fmt.Errorf("pause %s: %w", printable(queue), cmp.Or(context.Cause(ctx), err))
		}
	}
	for _, queue := range p.Queues {
		messages, consumers, err := await(c, queue, func(consumers int) bool { return consumers == 0 })
		if err != nil {
			return err
		}
		text := "nobody takes messages"
		if consumers > 0 { // the broker counts those that have left with messages in flight
			finishing, inFlight, err := p.finishing(ctx, c, queue)
			if err != nil {
				return err
			}
			if text = fmt.Sprintf("%s in flight still being finished", plural(inFlight, "message is", "messages are")); consumers <= finishing {
				consumers = 0
			}
		}
		if consumers > 0 {
			left += consumers
			text = fmt.Sprintf("but %s left: not Warren, older than this, or not told by WARREN_CONTROL_USERS to obey %s", plural(consumers, "consumer is", "consumers are"), c.User())
		}
		fmt.Fprintf(a.Out, "%s: paused %s, %s; %s ready\n", printable(queue), lasts, text, plural(messages, "message", "messages"))
	}
	if left > 0 {
		return &Partial{"some still take messages"}
	}
	return nil
}

// finishing is how many daemons have left a paused queue but for messages in flight, and
// how many these are.
func (p *pauseCommand) finishing(ctx context.Context, c *fleet.Client, queue string) (daemons, inFlight int, err error) {
	answers, err := c.Ask(ctx, fleet.Request{Verb: fleet.VerbStatus}, 0, obeyedWithin)
	if errors.Is(err, fleet.ErrNobody) {
		return 0, 0, nil
	}
	for _, an := range answers {
		for i := 0; an.Status != nil && i < len(an.Status.Queues); i++ {
			if q := an.Status.Queues[i]; q.Queue == queue && q.Paused != nil && q.InFlight > 0 {
				daemons++
				inFlight += int(q.InFlight)
			}
		}
	}
	return daemons, inFlight, err
}

// await waits until a queue has as many consumers as it should, or no longer.
func await(c *fleet.Client, queue string, enough func(consumers int) bool) (messages, consumers int, err error) {
	for until := time.Now().Add(obeyedWithin); ; time.Sleep(100 * time.Millisecond) {
		if messages, consumers, err = c.Count(queue); err != nil || enough(consumers) || time.Now().After(until) {
			return messages, consumers, err
		}
	}
}

type resumeCommand struct {
	Queues []string `arg:"" name:"queue" help:"The work queues."`
	acting
	fleetCommand
}

// Run ends the pauses of the queues.
func (r *resumeCommand) Run(ctx context.Context, a App) error {
	var paused, what []string
	err := r.with(ctx, a, func(ctx context.Context, c *fleet.Client) error {
		for _, queue := range r.Queues {
			p, err := c.Paused(ctx, queue)
			if err != nil {
				return err
			}
			if p == nil {
				fmt.Fprintf(a.Out, "%s: not paused\n", printable(queue))
				continue
			}
			paused = append(paused, queue)
			what = append(what, fmt.Sprintf("%s (paused %s)", printable(queue), printable(p.Text(time.Now()))))
		}
		return nil
	})
	if err != nil || len(paused) == 0 {
		return err
	}
	if on, err := r.proceed(a, "resume "+strings.Join(what, ", ")); !on {
		return err
	}
	return r.with(ctx, a, func(ctx context.Context, c *fleet.Client) error { return resume(ctx, a, c, paused) })
}

// resume resumes queues that are paused, waits, and says what has come of it.
func resume(ctx context.Context, a App, c *fleet.Client, paused []string) error {
	for _, queue := range paused {
		if err := c.Resume(ctx, queue); err != nil {
			return fmt.Errorf("resume %s: %w", printable(queue), cmp.Or(context.Cause(ctx), err))
		}
	}
	for _, queue := range paused {
		messages, consumers, err := await(c, queue, func(consumers int) bool { return consumers > 0 })
		switch {
		case errors.Is(err, fleet.ErrNoQueue):
			fmt.Fprintf(a.Out, "%s: resumed; there is no such queue\n", printable(queue))
			continue
		case err != nil:
			return err
		}
		fmt.Fprintf(a.Out, "%s: resumed; %s, %s ready\n", printable(queue), plural(consumers, "consumer", "consumers"), plural(messages, "message", "messages"))
	}
	return nil
}
