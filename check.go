package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/warrenmq/warren/consumer"
)

type checkCommand struct{}

// Run prints a line for each thing that was looked at. It returns an error if one
// is not as it should be.
func (checkCommand) Run(ctx context.Context, std streams) error {
	cfg, err := loadConfig(std.err)
	if err != nil {
		return err
	}
	fmt.Fprintf(std.out, "ok     configuration: queues %s\n", strings.Join(cfg.queueNames(), ", "))
	var faults int
	consumer.Check(ctx, cfg.consumer, func(f consumer.Finding) {
		mark := "ok   "
		if !f.OK {
			mark = "FAULT"
			faults++
		}
		fmt.Fprintf(std.out, "%s  %s: %s\n", mark, f.What, f.Text)
	})
	if cfg.database != nil {
		if err := cfg.database.Check(ctx); err != nil {
			fmt.Fprintf(std.out, "FAULT  %v\n", err)
			faults++
		} else {
			fmt.Fprintf(std.out, "ok     %s: Warren's tables are there\n", cfg.database.Name())
		}
	}
	if faults > 0 {
		err = fmt.Errorf("faults found: %d", faults)
	}
	return errors.Join(err, context.Cause(ctx), cfg.Close())
}
