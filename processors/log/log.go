// Package log logs each delivery and does nothing else with it: to try a queue
// out, or to look at what arrives.
package log

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/registry"
)

// Config is what a log processor is made from. It has no variables.
type Config struct{}

// Validate has no faults to report.
func (*Config) Validate(registry.Queue) error { return nil }

// Open returns the processor of a queue.
func (*Config) Open(registry.Queue, *slog.Logger) (consumer.Processor, error) {
	return consumer.ProcessorFunc(process), nil
}

// maxNames is how many names of headers are logged: a message can have thousands.
const maxNames = 32

// process logs the facts about d, and never its body or the values of its headers:
// what a message says is not for everyone who reads a log.
func process(_ context.Context, d consumer.Delivery, scope *consumer.Scope) error {
	names := slices.Sorted(maps.Keys(d.Headers))
	args := []any{"type", d.Type, "content_type", d.ContentType, "body_bytes", len(d.Body), "headers", names[:min(len(names), maxNames)]}
	if more := len(names) - maxNames; more > 0 {
		args = append(args, "more_headers", more)
	}
	scope.Logger().Info("delivery", args...)
	return nil
}
