package schedule

import (
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// Check looks whether what a [Runner] needs is there and permitted, and reports each
// finding as it is made. It declares nothing that is missing, and takes and leaves no
// message.
func Check(conn *broker.Conn, cfg Config, report broker.Report) {
	for _, s := range cfg.Schedules {
		checkToken(conn, s, cfg.Passive, report)
		if !slices.ContainsFunc(cfg.Queues, func(q broker.Queue) bool { return q.Name == s.Queue || q.DeadLetterQueue() == s.Queue }) {
			checkTarget(conn, s, report)
		}
	}
}

// checkToken looks at the queue of a schedule's tokens.
func checkToken(conn *broker.Conn, s Schedule, passive bool, report broker.Report) {
	d := tokenDeclaration(s, conn.Version)
	err := conn.OnChannel(d.Look)
	if err == nil && !passive {
		err = conn.Declare(d) // changes nothing: it is there
	}
	if err == nil {
		err = conn.OnChannel(func(ch *amqp.Channel) error { return broker.MayConsume(ch, s.tokenQueue()) })
	}
	broker.ReportLook(report, d, err, !passive, "", "is there, for the election of a leader")
}

// checkTarget looks at a queue that is not worked here, but published to.
func checkTarget(conn *broker.Conn, s Schedule, report broker.Report) {
	d := broker.DeclareQueue(s.Queue, nil)
	err := conn.OnChannel(d.Look)
	if broker.IsMissing(err) {
		report.Fault(d.What, "is missing; declare it, or name another one in "+s.EnvPrefix+"QUEUE")
		return
	}
	broker.ReportLook(report, d, err, false, s.EnvPrefix, "is there, for schedule "+s.Name)
}
