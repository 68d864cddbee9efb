package consumer

import (
	"context"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/doctor"
	"github.com/warrenmq/warren/consumer/internal/waits"
)

type (
	// Finding is what [Check] has found of one thing.
	Finding = broker.Finding
	// Severity is how much there is to do about it.
	Severity = broker.Severity
	// Counts are what the broker says of a queue that is there.
	Counts = broker.Counts
)

// How much there is to do about a finding.
const (
	SeverityOK      = broker.SeverityOK
	SeverityNote    = broker.SeverityNote
	SeverityWarning = broker.SeverityWarning
	SeverityFault   = broker.SeverityFault
)

// Check connects to every node of cfg and looks whether what [Consumer.Run] needs
// is there and permitted. It declares nothing that is missing, and takes and
// leaves no message. It reports each finding as it is made, and blocks until all
// are or ctx ends.
func Check(ctx context.Context, cfg Config, report func(Finding)) {
	cfg = cfg.withDefaults()
	queues := make([]doctor.Queue, len(cfg.Queues))
	for i, q := range cfg.Queues {
		queues[i] = doctor.Queue{Queue: q.onBroker(), Plan: waits.Plan(q.RetryBase, q.RetryMax, q.MaxAttempts)}
	}
	doctor.Check(ctx, cfg.Nodes, queues, cfg.schedules(broker.Dialer{Program: cfg.Program, Worker: cfg.Worker}), report)
}
