package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/jsonvalue"
	"github.com/warrenmq/warren/daemon/internal/legible"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

type psCommand struct {
	Queues []string      `arg:"" optional:"" name:"queue" help:"Only daemons that have one of these queues, and what there is to say of them."`
	Wait   time.Duration `default:"1500ms" placeholder:"DURATION" help:"How long to wait for answers, at most (1.5s)."`
	format
	fleetCommand
}

// Run prints a line for each daemon, and what stands out. That a queue is not there which
// somebody has named is an error as well.
func (p *psCommand) Run(ctx context.Context, a App) error {
	queues := p.Queues
	if len(queues) == 0 {
		queues = settings.QueueNames()
	}
	var answers []fleet.Answer
	var states []fleet.QueueState
	err := p.with(ctx, a, func(ctx context.Context, c *fleet.Client) (err error) {
		answers, err = c.Ask(ctx, fleet.Request{Verb: fleet.VerbStatus, Attempts: 1}, 0, p.Wait)
		if err != nil && !errors.Is(err, fleet.ErrNobody) {
			return err
		}
		if len(p.Queues) > 0 {
			answers = slices.DeleteFunc(answers, func(an fleet.Answer) bool {
				return an.Status != nil && !slices.ContainsFunc(an.Status.Queues, func(q fleet.QueueStatus) bool { return slices.Contains(p.Queues, q.Queue) })
			})
		}
		states, err = c.QueueStates(ctx, queues, answers)
		return err
	})
	if err != nil {
		return err
	}
	if err := p.print(a, answers, states); err != nil {
		return err
	}
	for _, q := range states {
		if q.Missing && slices.Contains(p.Queues, q.Queue) {
			return fmt.Errorf("there is no queue %s: check its name, and the virtual host of WARREN_AMQP_URL", q.Queue)
		}
	}
	return nil
}

func (p *psCommand) print(a App, answers []fleet.Answer, states []fleet.QueueState) error {
	notes := fleet.Notes(answers, states, time.Now())
	if p.Output == "json" { // the whole in one
		text, err := jsonvalue.Marshal(struct {
			Daemons []fleet.Answer     `json:"daemons"`
			Queues  []fleet.QueueState `json:"queues"`
			Notes   []string           `json:"notes"`
		}{emptyIfNil(answers), emptyIfNil(states), emptyIfNil(notes)})
		if err != nil {
			return err
		}
		var lines bytes.Buffer
		_ = json.Indent(&lines, text, "", "  ") // it is valid
		_, err = fmt.Fprintln(a.Out, &lines)
		return err
	}
	list := p.list(a.Out, []string{"DAEMON", "VERSION", "UP", "NODE", "FLIGHT", "OLDEST", "QUEUES"}, 22, 12, 5, 16, 9, 16)
	for _, an := range answers {
		if err := list.add(an, psRow(an)...); err != nil {
			return err
		}
	}
	if err := list.end(); err != nil {
		return err
	}
	if p.Output != "table" {
		return nil
	}
	if len(answers) == 0 {
		fmt.Fprintln(a.Err, fleet.ErrNobody)
	}
	for _, note := range notes {
		fmt.Fprintf(a.Out, "! %s\n", legible.Line(note))
	}
	return nil
}

func emptyIfNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// psRow is the row of a daemon.
func psRow(an fleet.Answer) []string {
	d := an.Daemon
	row := []string{legible.Line(d.Name()), legible.Line(d.Version), since(d.Began)}
	s := an.Status
	if s == nil {
		return append(row, "-", "-", "-", legible.Line(an.Error))
	}
	var inFlight int64
	var slots int
	var oldest fleet.Attempt
	names := make([]string, len(s.Queues))
	for i, q := range s.Queues {
		inFlight, slots, names[i] = inFlight+q.InFlight, slots+q.Slots, legible.Line(q.Queue)
		for _, at := range q.Attempts {
			if oldest.Began.IsZero() || at.Began.Before(oldest.Began) {
				oldest = at
			}
		}
	}
	age := "-"
	if !oldest.Began.IsZero() {
		age = legible.Short(max(s.At.Sub(oldest.Began), 0)) + " " + legible.Line(cmp.Or(oldest.MessageID, "(no id)"))
	}
	return append(row, legible.Line(s.Node), fmt.Sprintf("%d/%d", inFlight, slots), age, strings.Join(names, ","))
}

// targets are the daemons that an act is for.
type targets struct {
	Daemons []string      `arg:"" optional:"" name:"daemon" help:"The daemons: HOST, all of one machine, or HOST/PID, as ps shows them."`
	All     bool          `help:"All daemons."`
	Why     string        `placeholder:"TEXT" help:"The reason, for the log and whoever looks."`
	Wait    time.Duration `default:"3s" placeholder:"DURATION" help:"How long to wait for answers, at most (3s)."`
	acting
	fleetCommand
}

// act asks who is there, says what would be done, and has them do r.
func (t *targets) act(ctx context.Context, a App, what string, r fleet.Request) error {
	if (len(t.Daemons) > 0) == t.All {
		return errors.New("name daemons, as ps shows them, or say --all")
	}
	r.Daemons, r.Why = t.Daemons, t.Why
	return act(ctx, a, t.fleetCommand, t.acting, t.Wait, what, r, nil)
}

// act finds out which daemons r is for, says what would be done, and has them do it. those
// tells which of them are meant; nil: all that answer.
func act(ctx context.Context, a App, link fleetCommand, f acting, wait time.Duration, what string, r fleet.Request, those func(fleet.Answer) bool) error {
	ask := func(r fleet.Request, expect int) (answers []fleet.Answer, err error) {
		err = link.with(ctx, a, func(ctx context.Context, c *fleet.Client) (err error) {
			answers, err = c.Ask(ctx, r, expect, wait)
			return err
		})
		return answers, err
	}
	there, err := ask(fleet.Request{Verb: fleet.VerbStatus, Daemons: r.Daemons, Attempts: fleet.MaxAttempts}, 0)
	if err != nil {
		return err
	}
	meant := make(map[string]bool)
	for _, an := range there {
		if those == nil || those(an) {
			meant[an.Daemon.Name()] = true
		}
	}
	for _, name := range r.Daemons {
		if !slices.ContainsFunc(there, func(an fleet.Answer) bool { return an.Daemon.Host == name || an.Daemon.Name() == name }) {
			return fmt.Errorf("no daemon %s has answered; %s ps lists those that do", printable(name), a.Name)
		}
	}
	if len(meant) == 0 {
		return errors.New("none of the daemons that have answered is meant")
	}
	names := slices.Sorted(maps.Keys(meant))
	if on, err := f.proceed(a, fmt.Sprintf("%s: %s (%s)", what, plural(len(meant), "daemon", "daemons"), printable(strings.Join(names, ", ")))); !on {
		return err
	}
	var answers []fleet.Answer
	for part := range slices.Chunk(names, namesAtOnce) {
		r.Daemons = part
		var some []fleet.Answer
		some, err = ask(r, len(part))
		if answers = append(answers, some...); err != nil {
			break
		}
	}
	if err != nil && len(answers) == 0 {
		return err
	}
	failed := 0
	for _, an := range answers {
		switch {
		case an.Error != "":
			failed++
			fmt.Fprintf(a.Out, "%s: %s\n", printable(an.Daemon.Name()), legible.Line(an.Error))
		case an.Done == 0:
			failed++
			fmt.Fprintf(a.Out, "%s: nothing to do any more\n", printable(an.Daemon.Name()))
		default:
			fmt.Fprintf(a.Out, "%s: done\n", printable(an.Daemon.Name()))
		}
		delete(meant, an.Daemon.Name())
	}
	for _, name := range slices.Sorted(maps.Keys(meant)) {
		fmt.Fprintf(a.Out, "%s: no answer\n", printable(name))
	}
	text := fmt.Sprintf("not done by %d of %d", failed+len(meant), len(names))
	switch {
	case err != nil:
		return &Partial{fmt.Sprintf("%s: %v", text, err)}
	case failed+len(meant) > 0:
		return &Partial{text}
	}
	return nil
}

// namesAtOnce is how many daemons one request names: with the longest names of machines it has
// half of fleet.MaxRequestBytes.
const namesAtOnce = 100

type quietCommand struct{ targets }

// Run has daemons take no messages.
func (q *quietCommand) Run(ctx context.Context, a App) error {
	return q.act(ctx, a, "finish what is in flight and take no more", fleet.Request{Verb: fleet.VerbQuiet})
}

type workCommand struct{ targets }

// Run has daemons take messages again.
func (w *workCommand) Run(ctx context.Context, a App) error {
	return w.act(ctx, a, "take messages again", fleet.Request{Verb: fleet.VerbWork})
}

type levelCommand struct {
	Level string        `arg:"" enum:"debug,info,warn,error" help:"The level: debug, info, warn or error."`
	For   time.Duration `default:"10m" placeholder:"DURATION" help:"How long, up to 24h (10m); then it is the usual one again."`
	targets
}

// Run has daemons log more or less for a while.
func (l *levelCommand) Run(ctx context.Context, a App) error {
	if l.For < time.Second || l.For > fleet.MaxLevel {
		return fmt.Errorf("--for is %v; it must be from 1s to %v", l.For, fleet.MaxLevel)
	}
	return l.act(ctx, a, fmt.Sprintf("log at %s for %v", l.Level, l.For), fleet.Request{Verb: fleet.VerbLevel, Level: l.Level, ForMillis: l.For.Milliseconds()})
}

type cancelCommand struct {
	MessageID string        `arg:"" name:"id" help:"The message-id, as ps and top show it."`
	Queue     string        `placeholder:"QUEUE" help:"Only in this queue."`
	Why       string        `placeholder:"TEXT" help:"The reason, for the log and the dead letter."`
	Wait      time.Duration `default:"3s" placeholder:"DURATION" help:"How long to wait for answers, at most (3s)."`
	acting
	fleetCommand
}

// Run ends the attempt at a message.
func (k *cancelCommand) Run(ctx context.Context, a App) error {
	unseen := false
	has := func(an fleet.Answer) bool {
		if an.Status == nil {
			return false
		}
		for _, q := range an.Status.Queues {
			if k.Queue != "" && q.Queue != k.Queue {
				continue
			}
			unseen = unseen || int64(len(q.Attempts)) < q.InFlight
			if slices.ContainsFunc(q.Attempts, func(at fleet.Attempt) bool { return at.MessageID == k.MessageID }) {
				return true
			}
		}
		return false
	}
	err := act(ctx, a, k.fleetCommand, k.acting, k.Wait, "cancel "+printable(k.MessageID)+", and dead-letter it", fleet.Request{Verb: fleet.VerbCancel, MessageID: k.MessageID, Queue: k.Queue, Why: k.Why}, has)
	if err != nil && err.Error() == "none of the daemons that have answered is meant" {
		text := "no daemon that has answered is working on a message of that id"
		if unseen {
			text += fmt.Sprintf(", among the oldest %d of each queue", fleet.MaxAttempts)
		}
		return errors.New(text)
	}
	return err
}
