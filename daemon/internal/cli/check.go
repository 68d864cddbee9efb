package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

type checkCommand struct{}

// Run prints a line for each thing that was looked at. It returns an error if one
// is not as it should be.
func (checkCommand) Run(ctx context.Context, a App) error {
	cfg, err := settings.Load(a.Program, a.Err)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "ok     configuration: queues %s\n", strings.Join(cfg.QueueNames(), ", "))
	var faults int
	consumer.Check(ctx, cfg.Consumer, func(f consumer.Finding) {
		mark := "ok   "
		if !f.OK {
			mark = "FAULT"
			faults++
		}
		fmt.Fprintf(a.Out, "%s  %s: %s\n", mark, f.What, f.Text)
	})
	if cfg.Database.URL != "" {
		name, err := checkDatabase(ctx, cfg)
		if err != nil {
			fmt.Fprintf(a.Out, "FAULT  %v\n", err)
			faults++
		} else {
			fmt.Fprintf(a.Out, "ok     %s: Warren's tables are there\n", name)
		}
	}
	if faults > 0 {
		err = fmt.Errorf("faults found: %d", faults)
	}
	return errors.Join(err, context.Cause(ctx))
}

// checkDatabase looks for Warren's tables.
func checkDatabase(ctx context.Context, cfg *settings.Config) (name string, err error) {
	db, err := database.New(cfg.Database, cfg.Log)
	if err != nil {
		return "", err
	}
	return db.Name(), errors.Join(db.Check(ctx), db.Close())
}
