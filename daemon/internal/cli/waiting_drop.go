package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/warrenmq/warren/consumer/operator"
)

type waitingDropCommand struct {
	Queue string `arg:"" help:"The work queue that they wait for."`
	chosenWaiting
	Discard   bool   `help:"Discard them, into a file, rather than making dead letters of them."`
	Archive   string `placeholder:"PATH" help:"With --discard: the file to put them into first, which must not exist; without it, QUEUE.waiting-TIME.jsonl in this folder."`
	NoArchive bool   `help:"With --discard: keep no copy."`
}

// Run drops them.
func (d *waitingDropCommand) Run(ctx context.Context, a App) error {
	if !d.Discard {
		if d.Archive != "" || d.NoArchive {
			return errors.New("--archive and --no-archive are for --discard; dead letters are kept anyway")
		}
		return d.act(ctx, a, d.Queue, "drop", ", into "+d.Queue+".dead", "dropped", func(b operator.Broker, which operator.Selection, show func(operator.Done)) (operator.Done, error) {
			return b.Drop(ctx, d.Queue, which, show)
		})
	}
	path, how, err := archiveOf(d.Archive, d.NoArchive, d.Queue+".waiting", time.Now())
	if err != nil {
		return err
	}
	return d.act(ctx, a, d.Queue, "discard", how, "discarded", func(b operator.Broker, which operator.Selection, show func(operator.Done)) (operator.Done, error) {
		done, err := archived(path, d.NoArchive, func(archive operator.Archive) (operator.Done, error) {
			return b.DiscardWaiting(ctx, d.Queue, which, archive, show)
		})
		if done.Done > 0 && !d.NoArchive {
			fmt.Fprintf(a.Out, "%s has them; %s publish %s --lines %s publishes them again\n", path, a.Name, d.Queue, path)
		}
		return done, err
	})
}
