package cli

import (
	"context"
	"fmt"

	"github.com/warrenmq/warren/consumer/operator"
)

type waitingReleaseCommand struct {
	Queue string `arg:"" help:"The work queue that they wait for."`
	chosenWaiting
}

// Run releases them.
func (r *waitingReleaseCommand) Run(ctx context.Context, a App) error {
	return r.act(ctx, a, r.Queue, "release", "", "released", func(b operator.Broker, which operator.Selection, show func(operator.Done)) (operator.Done, error) {
		return b.Release(ctx, r.Queue, which, show)
	})
}

// chosenWaiting say which messages that wait an act is about.
type chosenWaiting struct {
	IDs    []string `arg:"" optional:"" name:"id" help:"Their ids, as the list has them."`
	Filter string   `short:"f" placeholder:"FILTER" help:"All that match, such as 'in > 12h and type = report'; docs/dead-letters.md has the language."`
	picked
}

// act counts what the act would be about, asks, does it, and says what came of it.
func (c *chosenWaiting) act(ctx context.Context, a App, queue, verb, how, did string, act func(operator.Broker, operator.Selection, func(operator.Done)) (operator.Done, error)) error {
	p := picking{picked: &c.picked, queue: queue, ids: c.IDs, filter: c.Filter, one: "waiting message", several: "waiting messages", found: make(map[string]bool)}
	which, err := p.selection(operator.WaitingFields)
	if err != nil {
		return err
	}
	b, err := a.operator()
	if err != nil {
		return err
	}
	on, err := p.agree(a, verb, how, func() (looked operator.Looked, reasons map[string]int, err error) {
		counted := which
		counted.Most = 1 // to be kept
		list, err := b.Waiting(ctx, []string{queue}, counted, 0)
		looked.Matched = list.Matched
		if c.Limit > 0 {
			looked.Matched = min(looked.Matched, c.Limit)
		}
		if len(list.Messages) > 0 {
			reasons = map[string]int{fmt.Sprintf("the next due at %s, the last at %s", clock(list.Messages[0].Due), clock(list.Last)): 0}
		}
		return looked, reasons, err
	})
	if !on {
		return err
	}
	show, end := a.progress(did)
	done, err := act(b, which, show)
	end()
	return p.outcome(a, did, done, err)
}
