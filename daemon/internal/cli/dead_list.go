package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/daemon/internal/legible"
)

type deadListCommand struct {
	letters
	format
	Limit int `short:"n" placeholder:"N" help:"The first N of them only."`
}

// Run prints the list.
func (l *deadListCommand) Run(ctx context.Context, a App) error {
	if l.Limit < 0 {
		return fmt.Errorf("--limit is %d; it must be positive", l.Limit)
	}
	which, err := l.selection()
	if err != nil {
		return err
	}
	which.Most = l.Limit
	b, err := a.operator()
	if err != nil {
		return err
	}
	list := l.list(a.Out, []string{"ID", "AGE", "TRIES", "REASON", "ERROR"}, 36, 5, 5, 14)
	looked, err := b.Letters(ctx, l.Queue, which, func(d *operator.Letter) error {
		return list.add(d, legible.Line(d.ID), since(d.DeadAt), strconv.Itoa(d.Attempts), legible.Line(d.Reason), legible.Line(d.Error))
	})
	if err != nil {
		return fmt.Errorf("dead letters of %s not listed: %w", l.Queue, err)
	}
	if err := list.end(); err != nil {
		return err
	}
	a.warnOfLimit(l.Queue, looked)
	if l.Output == "table" {
		fmt.Fprintf(a.Err, "%s, of %d looked at\n", plural(looked.Matched, "dead letter", "dead letters"), looked.All)
	}
	return nil
}
