package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

type delayedCommand struct {
	List delayedListCommand `cmd:"" help:"List the messages that wait in the broker, for a delay or their next attempt, the next due first; they stay where they are."`
}

type delayedListCommand struct {
	Queues  []string      `arg:"" optional:"" name:"queue" help:"The queues whose messages to list; without one, those of WARREN_QUEUES."`
	JSON    bool          `name:"json" help:"Print a JSON object a line."`
	Limit   int           `default:"1000" placeholder:"N" help:"How many to look at in each wait queue (1000)."`
	Timeout time.Duration `default:"30s" placeholder:"DURATION" help:"How long to wait for the broker (30s)."`
}

// Run prints the list.
func (l *delayedListCommand) Run(ctx context.Context, a App) error {
	if l.Limit < 1 {
		return fmt.Errorf("--limit is %d; it must be at least 1", l.Limit)
	}
	nodes, err := settings.Nodes()
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
	ctx, cancel := context.WithTimeoutCause(ctx, l.Timeout, fmt.Errorf("no answer within %v; is the broker up?", l.Timeout))
	defer cancel()
	found, err := operator.Delayed(ctx, a.Name, nodes, queues, l.Limit)
	if err != nil {
		return fmt.Errorf("delayed messages not listed: %w", err)
	}
	if found.More > 0 {
		fmt.Fprintf(a.Err, "%s: %d more wait that were not looked at; --limit says how many are, of each wait queue\n", a.Name, found.More)
	}
	for _, queue := range found.Missing {
		fmt.Fprintf(a.Err, "%s: queue %s is missing; what has fallen due for it is kept but cannot be listed, and comes home within three minutes once the queue is declared, by a worker that has it in WARREN_QUEUES\n", a.Name, printable(queue))
	}
	if l.JSON {
		encoder := json.NewEncoder(a.Out)
		for _, w := range found.Messages {
			if err := encoder.Encode(w); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "QUEUE\tDUE\tIN\tATTEMPTS\tMESSAGE ID\tERROR")
	for _, w := range found.Messages {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", printable(w.Queue), w.Due.Local().Format(time.RFC3339), time.Until(w.Due).Round(time.Second),
			w.Attempts, printable(w.MessageID), printable(w.Error))
	}
	return table.Flush()
}
