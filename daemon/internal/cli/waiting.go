package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/consumer/operator/filter"
	"github.com/warrenmq/warren/daemon/internal/legible"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

type waitingCommand struct {
	List    waitingListCommand    `cmd:"" help:"List the messages that wait in the broker, for a delay or their next attempt, the next due first; they stay where they are."`
	Release waitingReleaseCommand `cmd:"" help:"Put messages that wait into their queue, to be worked now."`
	Drop    waitingDropCommand    `cmd:"" help:"Put messages that wait into the dead letters, or discard them."`
}

type waitingListCommand struct {
	Queues []string `arg:"" optional:"" name:"queue" help:"The queues whose messages to list; without one, those of WARREN_QUEUES."`
	Filter string   `short:"f" placeholder:"FILTER" help:"Only those that match, such as 'in < 1h and attempts > 3'; docs/dead-letters.md has the language."`
	format
	JSON    bool          `name:"json" help:"The same as -o jsonl."`
	Limit   int           `default:"1000" placeholder:"N" help:"How many to look at in each wait queue (1000); 0 means all."`
	Timeout time.Duration `default:"30s" placeholder:"DURATION" help:"How long to wait for the broker (30s)."`
}

// Run prints the list.
func (l *waitingListCommand) Run(ctx context.Context, a App) error {
	if l.Limit < 0 {
		return fmt.Errorf("--limit is %d; it must be positive, or 0", l.Limit)
	}
	f, err := filter.Parse(l.Filter, operator.WaitingFields)
	if err != nil {
		return err
	}
	b, err := a.operator()
	if err != nil {
		return err
	}
	queues := l.Queues
	if len(queues) == 0 {
		queues = settings.QueueNames()
	}
	if len(queues) == 0 {
		return errors.New("name the queues whose messages to list, or set WARREN_QUEUES")
	}
	var found operator.WaitingList
	err = within(ctx, l.Timeout, func(ctx context.Context) (err error) {
		found, err = b.Waiting(ctx, queues, operator.Selection{Filter: f}, l.Limit)
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting messages not listed: %w", err)
	}
	if found.More > 0 {
		fmt.Fprintf(a.Err, "%s: %d more wait that were not looked at; --limit says how many are, of each wait queue\n", a.Name, found.More)
	}
	for _, queue := range found.Missing {
		fmt.Fprintf(a.Err, "%s: queue %s is missing; what has fallen due for it is kept but cannot be listed, and comes home within three minutes once the queue is declared, by a worker that has it in WARREN_QUEUES\n", a.Name, printable(queue))
	}
	for _, queue := range found.Unknown {
		fmt.Fprintf(a.Err, "%s: there is no queue %s: check the name, and the virtual host of WARREN_AMQP_URL\n", a.Name, printable(queue))
	}
	if l.JSON {
		l.Output = "jsonl"
	}
	list := l.list(a.Out, []string{"QUEUE", "DUE", "IN", "TRIES", "ID", "ERROR"}, 20, 25, 5, 5, 36)
	for _, w := range found.Messages {
		err := list.add(w, legible.Line(w.Queue), w.Due.Local().Format(time.RFC3339), legible.Short(time.Until(w.Due)), strconv.Itoa(w.Attempts), legible.Line(w.MessageID), legible.Line(w.Error))
		if err != nil {
			return err
		}
	}
	return list.end()
}
