package schedule

import (
	"errors"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// Check looks whether what a [Runner] needs is there and permitted, and reports each
// finding as it is made. It declares nothing that is missing, and takes and leaves no
// message.
func Check(conn *broker.Conn, cfg Config, report func(ok bool, what, text string)) {
	for _, s := range cfg.Schedules {
		checkToken(conn, s, cfg.Passive, report)
		if !slices.ContainsFunc(cfg.Queues, func(q broker.Queue) bool { return q.Name == s.Queue || q.DeadLetterQueue() == s.Queue }) {
			checkTarget(conn, s, report)
		}
	}
}

// checkToken looks at the queue of a schedule's tokens.
func checkToken(conn *broker.Conn, s Schedule, passive bool, report func(ok bool, what, text string)) {
	d := tokenDeclaration(s)
	err := conn.OnChannel(d.Look)
	if err == nil && !passive {
		err = conn.OnChannel(d.Make) // changes nothing: it is there
	}
	if err == nil {
		err = conn.OnChannel(func(ch *amqp.Channel) error { return mayConsume(ch, s.tokenQueue()) })
	}
	switch {
	case err == nil:
		report(true, d.What, "is there, for the election of a leader")
	case broker.IsMissing(err) && !passive:
		report(true, d.What, "is missing; warren declares it when it starts")
	default:
		report(false, d.What, within(d.What, d.Explain(err, passive, "")))
	}
}

// checkTarget looks at a queue that is not worked here, but published to.
func checkTarget(conn *broker.Conn, s Schedule, report func(ok bool, what, text string)) {
	d := broker.DeclareQueue(s.Queue, nil)
	err := conn.OnChannel(d.Look)
	switch {
	case err == nil:
		report(true, d.What, "is there, for schedule "+s.Name)
	case broker.IsMissing(err):
		report(false, d.What, "is missing; declare it, or name another one in "+s.EnvPrefix+"QUEUE")
	default:
		report(false, d.What, within(d.What, broker.ExplainDeclare(d.What, err, true, s.EnvPrefix)))
	}
}

// within is the text of an error about what, for a line that begins with that.
func within(what string, err error) string {
	return strings.TrimLeft(strings.TrimPrefix(err.Error(), what), ": ")
}

// mayConsume asks to consume with an argument that the broker must refuse. It looks at
// the permission and the queue first, so that nothing is handed out whatever it answers.
func mayConsume(ch *amqp.Channel, queue string) error {
	_, err := ch.Consume(queue, "", false, false, false, false, amqp.Table{"x-priority": "none"})
	if reply, ok := errors.AsType[*amqp.Error](err); ok && reply.Code == amqp.PreconditionFailed {
		return nil
	}
	return err
}
