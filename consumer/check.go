package consumer

import (
	"context"
	"time"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/waits"
	"github.com/warrenmq/warren/consumer/schedule"
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
	schedules := cfg.schedules(broker.Dialer{Program: cfg.Program, Worker: cfg.Worker})
	tell := broker.Report(report)
	for _, s := range cfg.Schedules {
		tell.OK("schedule "+s.Name, s.Outlook(time.Now(), cfg.Version))
	}
	conn := schedules.Dialer.Inspect(ctx, cfg.Nodes, tell)
	if conn == nil {
		tell.Fault("queues", "not looked at: no node can be used")
		return
	}
	defer conn.Close()
	// The library's calls know of no context, and a broker with an alarm answers nothing.
	defer context.AfterFunc(ctx, func() { _ = conn.CloseDeadline(time.Now()) })()

	// The nodes are of one cluster: what one says of the queues, each would.
	for _, q := range cfg.Queues {
		conn.Inspect(q.onBroker(), tell)
		tell.OK("plan of "+q.Name, waits.Plan(q.RetryBase, q.RetryMax, q.MaxAttempts)+", then "+q.onBroker().DeadLetterQueue())
	}
	conn.ReportReplicas(len(cfg.Nodes), tell)
	schedule.Check(conn, schedules, tell)
	if err := conn.MayPublish(ctx); err != nil {
		tell.Fault("publishing", broker.Explain(err).Error())
		return
	}
	tell.OK("publishing", "permitted")
}
