// Package processors has the processors that come with Warren. Each is a package below
// this one with a Config of its own, and a line in [Standard].
package processors

import (
	"github.com/warrenmq/warren/processors/command"
	"github.com/warrenmq/warren/processors/email"
	"github.com/warrenmq/warren/processors/log"
	"github.com/warrenmq/warren/processors/registry"
	"github.com/warrenmq/warren/processors/report"
	"github.com/warrenmq/warren/processors/sql"
	"github.com/warrenmq/warren/processors/webhook"
)

// These are at hand here, too; the processors themselves have them from package registry.
type (
	// Config is what a processor is made from: see [registry.Config].
	Config = registry.Config
	// Checker is a Config that looks at what its processor depends on: see
	// [registry.Checker].
	Checker = registry.Checker
	// Queue is what a processor has to know of its queue: see [registry.Queue].
	Queue = registry.Queue
	// Set is processors by name: see [registry.Set].
	Set = registry.Set
)

// Standard returns the processors that come with Warren.
func Standard() Set {
	return Set{}.
		With("command", func() Config { return new(command.Config) }).
		With("email", func() Config { return new(email.Config) }).
		With("log", func() Config { return new(log.Config) }).
		With("report", func() Config { return new(report.Config) }).
		With("sql", func() Config { return new(sql.Config) }).
		With("webhook", func() Config { return new(webhook.Config) })
}
