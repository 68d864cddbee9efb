package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
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
	for _, s := range cfg.Schedules {
		report(Finding{true, "schedule " + s.Name, s.outlook(time.Now(), cfg.Version)})
	}
	var conn *amqp.Connection
	for _, node := range cfg.Nodes {
		what := "node " + nodeName(node)
		c, err := connect(ctx, node, "check")
		if err != nil {
			report(Finding{false, what, explain(err).Error()})
			continue
		}
		report(Finding{true, what, fmt.Sprintf("RabbitMQ %s, virtual host %s", brokerOf(c).version, c.Config.Vhost)})
		if conn != nil {
			_ = c.CloseDeadline(time.Now().Add(closeTimeout))
			continue
		}
		conn = c
	}
	if conn == nil {
		report(Finding{false, "queues", "not looked at: no node can be used"})
		return
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) }()

	// The nodes are of one cluster: what one says of the queues, each would.
	top := topologyOf(cfg.Queues)
	for _, q := range cfg.Queues {
		for _, name := range []string{q.Name, q.deadLetterQueue()} {
			checkQueue(conn, q, name, report)
		}
		if q.Exchange != "" {
			err := onChannel(conn, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclarePassive(q.Exchange, "", true, false, false, false, nil)
			})
			reportLook(report, "exchange "+q.Exchange, err, false, q.EnvPrefix, "to bind queue "+q.Name+" to")
		}
	}
	for _, s := range cfg.Schedules {
		checkSchedule(conn, top, s, report)
	}
	checkWaits(conn, top, report)
	for _, exchange := range []string{"", waitName(top.longestWait())} {
		err := onChannel(conn, func(ch *amqp.Channel) error { return mayPublish(ctx, ch, exchange) })
		what := fmt.Sprintf("publishing to exchange %q", exchange)
		switch {
		case err == nil:
			report(Finding{true, what, "permitted"})
		case !isMissing(err): // which has a line of its own already
			report(Finding{false, what, explain(err).Error()})
		}
	}
}

// checkQueue looks at one queue and what may be done with it.
func checkQueue(conn *amqp.Connection, q Queue, name string, report func(Finding)) {
	what := "queue " + name
	var state amqp.Queue
	err := onChannel(conn, func(ch *amqp.Channel) (err error) {
		state, err = ch.QueueDeclarePassive(name, true, false, false, false, nil)
		return err
	})
	if err == nil && !q.Passive {
		for _, d := range q.declarations()[:2] {
			if d.what == what {
				err = onChannel(conn, d.make) // changes nothing: it is there
			}
		}
	}
	if err == nil && name == q.Name {
		err = onChannel(conn, func(ch *amqp.Channel) error { return mayConsume(ch, name) })
	}
	reportLook(report, what, err, !q.Passive, q.EnvPrefix, fmt.Sprintf("%d messages ready, %d consumers", state.Messages, state.Consumers))
}

// outlook says what a schedule does next.
func (s Schedule) outlook(now time.Time, version string) string {
	if s.Once {
		return fmt.Sprintf("once for version %s, to queue %s", version, s.Queue)
	}
	var next []string
	for _, t := range s.upcoming(now, 3) {
		next = append(next, t.Format(time.RFC3339))
	}
	return fmt.Sprintf("next at %s, to queue %s", strings.Join(next, ", "), s.Queue)
}

// checkSchedule looks at the queue of a schedule's token, and at the one it publishes to
// unless that is looked at already.
func checkSchedule(conn *amqp.Connection, top topology, s Schedule, report func(Finding)) {
	what, mayDeclare := "queue "+s.tokenQueue(), !top.passive()
	token := tokenDeclaration(s)
	err := onChannel(conn, token.look)
	if err == nil && mayDeclare {
		err = onChannel(conn, token.make) // changes nothing: it is there
	}
	if err == nil {
		err = onChannel(conn, func(ch *amqp.Channel) error { return mayConsume(ch, s.tokenQueue()) })
	}
	reportLook(report, what, err, mayDeclare, s.EnvPrefix, "is there, for the election of a leader")
	if !slices.ContainsFunc(top.queues, func(q Queue) bool { return q.Name == s.Queue || q.deadLetterQueue() == s.Queue }) {
		target := Queue{}.declareQueue(s.Queue, nil)
		err := onChannel(conn, target.look)
		if isMissing(err) {
			report(Finding{false, target.what, fmt.Sprintf("is missing; declare it, or name another one in %sQUEUE", s.EnvPrefix)})
			return
		}
		reportLook(report, target.what, err, false, s.EnvPrefix, "is there, for schedule "+s.Name)
	}
}

// checkWaits looks at all wait queues and reports them in one line.
func checkWaits(conn *amqp.Connection, top topology, report func(Finding)) {
	decls := top.waitDeclarations()
	what := fmt.Sprintf("wait queues %s to %s", waitName(shortestWait), waitName(top.longestWait()))
	missing := 0
	for _, d := range decls {
		err := onChannel(conn, d.look)
		if err == nil && !top.passive() {
			err = onChannel(conn, d.make) // changes nothing: it is there
		}
		switch {
		case err == nil:
		case isMissing(err) && !top.passive():
			missing++
		default:
			report(Finding{false, what, explainDeclare(d.what, err, top.passive(), "WARREN_QUEUE_<NAME>_").Error()})
			return
		}
	}
	if missing > 0 {
		report(Finding{true, what, fmt.Sprintf("%d of %d are missing; warren declares them when it starts", missing, len(decls))})
		return
	}
	report(Finding{true, what, fmt.Sprintf("all %d are there", len(decls))})
}

// reportLook reports what looking at something came to. Where it may be declared,
// it is no fault that it is missing.
func reportLook(report func(Finding), what string, err error, mayDeclare bool, envPrefix, text string) {
	switch {
	case err == nil:
		report(Finding{true, what, orDefault(text, "is there")})
	case isMissing(err) && mayDeclare:
		report(Finding{true, what, "is missing; warren declares it when it starts"})
	default:
		text := explainDeclare(what, err, !mayDeclare, envPrefix).Error()
		report(Finding{false, what, strings.TrimLeft(strings.TrimPrefix(text, what), ": ")})
	}
}

// mayConsume asks to consume with an argument that the broker must refuse. It
// looks at the permission and the queue first, so that nothing is handed out
// whatever it answers.
func mayConsume(ch *amqp.Channel, queue string) error {
	_, err := ch.Consume(queue, "", false, false, false, false, amqp.Table{"x-priority": "none"})
	if reply, ok := errors.AsType[*amqp.Error](err); ok && reply.Code == amqp.PreconditionFailed {
		return nil
	}
	return err
}

// mayPublish publishes in a transaction, and rolls it back.
func mayPublish(ctx context.Context, ch *amqp.Channel, exchange string) error {
	if err := ch.Tx(); err != nil {
		return err
	}
	if err := ch.PublishWithContext(ctx, exchange, "", false, false, amqp.Publishing{}); err != nil {
		return err
	}
	return ch.TxRollback()
}

// onChannel runs f with a channel of its own, that an error of the broker closes.
func onChannel(conn *amqp.Connection, f func(*amqp.Channel) error) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	closes := ch.NotifyClose(make(chan *amqp.Error, 1))
	err = f(ch)
	if !ch.IsClosed() {
		_ = ch.Close() // it has served its purpose
		return err
	}
	if reason := <-closes; err != nil && reason != nil {
		return reason // f may have seen only that the channel was closed
	}
	return err
}
