// Package doctor looks at all that a consumer needs of the broker.
package doctor

import (
	"context"
	"time"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/schedule"
)

// A Queue is a work queue, and the plan of its attempts in words.
type Queue struct {
	broker.Queue
	Plan string
}

// Check connects to every node, and reports each finding as it is made. It blocks until all
// are or ctx ends.
func Check(ctx context.Context, nodes []string, queues []Queue, schedules schedule.Config, report broker.Report) {
	for _, s := range schedules.Schedules {
		report.OK("schedule "+s.Name, s.Outlook(time.Now(), schedules.Version))
	}
	conn := schedules.Dialer.Inspect(ctx, nodes, report)
	if conn == nil {
		report.Fault("queues", "not looked at: no node can be used")
		return
	}
	defer conn.Close()
	// The library's calls know of no context, and a broker with an alarm answers nothing.
	defer context.AfterFunc(ctx, func() { _ = conn.CloseDeadline(time.Now()) })()

	// The nodes are of one cluster: what one says of the queues, each would.
	for _, q := range queues {
		conn.Inspect(q.Queue, report)
		report.OK("plan of "+q.Name, q.Plan+", then "+q.DeadLetterQueue())
	}
	conn.ReportReplicas(len(nodes), report)
	schedule.Check(conn, schedules, report)
	if err := conn.MayPublish(ctx); err != nil {
		report.Fault("publishing", broker.Explain(err).Error())
		return
	}
	report.OK("publishing", "permitted")
}
