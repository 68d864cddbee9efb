// Warren, with a processor that decodes a message and counts it.
package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/warrenmq/warren/bench/count"
	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/daemon"
	"github.com/warrenmq/warren/processors"
)

func main() {
	go count.Print()
	daemon.Main(processors.Standard().With("bench", func() processors.Config { return new(config) }))
}

type config struct{}

func (*config) Validate(processors.Queue) error { return nil }

// Open makes the processor. With BENCH_TAKES every message takes so long, and with
// BENCH_FAILS it fails then.
func (*config) Open(processors.Queue, *slog.Logger) (consumer.Processor, error) {
	takes, _ := time.ParseDuration(os.Getenv("BENCH_TAKES"))
	var result error
	if os.Getenv("BENCH_FAILS") != "" {
		result = errors.New("the bench has every message fail")
	}
	return consumer.JSON(func(_ context.Context, m count.Message, _ *consumer.Scope) error {
		time.Sleep(takes)
		count.Done(m)
		return result
	}), nil
}
