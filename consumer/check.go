package consumer

import (
	"context"
	"time"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/schedule"
)

// A Finding is one line of what [Check] found.
type Finding struct {
	OK   bool
	What string // such as "node mq1:5672" or "queue emails"
	Text string // what was found and, if it is a fault, the remedy
}

// Check connects to every node of cfg and looks whether what [Consumer.Run] needs
// is there and permitted. It declares nothing that is missing, and takes and
// leaves no message. It reports each finding as it is made, and blocks until all
// are or ctx ends.
func Check(ctx context.Context, cfg Config, report func(Finding)) {
	cfg = cfg.withDefaults()
	schedules := cfg.schedules(broker.Dialer{Program: cfg.Program, Worker: cfg.Worker})
	for _, s := range cfg.Schedules {
		report(Finding{true, "schedule " + s.Name, s.Outlook(time.Now(), cfg.Version)})
	}
	tell := func(ok bool, what, text string) { report(Finding{ok, what, text}) }
	conn := schedules.Dialer.Inspect(ctx, cfg.Nodes, tell)
	if conn == nil {
		tell(false, "queues", "not looked at: no node can be used")
		return
	}
	defer conn.Close()
	// The library's calls know of no context, and a broker with an alarm answers nothing.
	defer context.AfterFunc(ctx, func() { _ = conn.CloseDeadline(time.Now()) })()

	// The nodes are of one cluster: what one says of the queues, each would.
	for _, q := range cfg.Queues {
		conn.Inspect(q.onBroker(), tell)
	}
	conn.ReportReplicas(len(cfg.Nodes), tell)
	schedule.Check(conn, schedules, tell)
	const what = "publishing"
	if err := conn.MayPublish(ctx); err != nil {
		report(Finding{false, what, broker.Explain(err).Error()})
		return
	}
	report(Finding{true, what, "permitted"})
}
