// Package processors names what can be done with a delivery. A processor is a
// package below this one with a Config of its own, and a line in the registry.
package processors

import (
	"log/slog"
	"maps"
	"slices"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/command"
	"github.com/warrenmq/warren/processors/email"
	warrenlog "github.com/warrenmq/warren/processors/log"
	"github.com/warrenmq/warren/processors/report"
	"github.com/warrenmq/warren/processors/sql"
	"github.com/warrenmq/warren/processors/webhook"
)

// registry holds every processor by the name that PROCESSOR gives it.
var registry = map[string]func() Config{
	"command": of[command.Config],
	"email":   of[email.Config],
	"log":     of[warrenlog.Config],
	"report":  of[report.Config],
	"sql":     of[sql.Config],
	"webhook": of[webhook.Config],
}

// A Config is what a processor is made from: a pointer to a struct whose fields are
// the variables of one queue. Their tags are
//
//	envconfig  the name, without the queue's prefix
//	default    what it is if not set
//	desc       one line of explanation
//	required   true if it must be set
//	secret     true if no message may show its value
type Config interface {
	// New makes the processor of the queue, which works so many deliveries at once.
	// It connects to nothing and starts nothing. The error joins every fault, each
	// with the name of its variable and the remedy. A processor that is an
	// [io.Closer] is closed by the caller, once none of its deliveries is worked.
	New(queue string, concurrency int, log *slog.Logger) (consumer.Processor, error)
}

// A DatabaseUser is a [Config] that has to know the daemon's database. UseDatabase is
// called before New, with its URL, or nothing if there is none.
type DatabaseUser interface{ UseDatabase(url string) }

// Lookup returns a new, empty Config of the processor of that name. It reports
// false if there is none.
func Lookup(name string) (Config, bool) {
	empty, ok := registry[name]
	if !ok {
		return nil, false
	}
	return empty(), true
}

// Names returns the names of all processors, sorted.
func Names() []string { return slices.Sorted(maps.Keys(registry)) }

// of returns a new C as a Config.
func of[C any, P interface {
	*C
	Config
}]() Config {
	return P(new(C))
}
