package consumer

import (
	"context"
	"errors"
	"log/slog"
)

// waitPrefix begins the name of every wait queue and its exchange.
const waitPrefix = "warren.wait."

// ErrAbandoned is what Run returns if work was still going on when the shutdown
// timeout had passed. Its messages are back in their queues.
var ErrAbandoned = errors.New("work was abandoned at the shutdown timeout")

// A Consumer works the queues of a Config.
type Consumer struct{}

// New makes a Consumer. It connects to nothing yet. The error names every fault
// of cfg.
func New(cfg Config, log *slog.Logger) (*Consumer, error) { return nil, errors.New("not yet") }

// Run blocks.
func (c *Consumer) Run(ctx context.Context) error { return nil }
