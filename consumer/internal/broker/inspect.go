package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Inspect looks whether what q needs is there and permitted. It changes nothing.
func (c *Conn) Inspect(q Queue, report Report) {
	for _, name := range []string{q.Name, q.DeadLetterQueue()} {
		c.inspectQueue(q, name, report)
	}
	if q.Exchange != "" {
		err := c.OnChannel(func(ch *amqp.Channel) error {
			return ch.ExchangeDeclarePassive(q.Exchange, "", true, false, false, false, nil)
		})
		ReportLook(report, Declaration{What: "exchange " + q.Exchange}, err, false, q.EnvPrefix, "to bind queue "+q.Name+" to")
	}
	c.inspectWaits(q, report)
	if text := q.LongWork(c.Version); text != "" {
		text, cure, _ := strings.Cut(text, "; ")
		report(Finding{Severity: SeverityNote, What: "timeout of " + q.Name, Text: text, Cure: cure})
	}
}

// inspectQueue looks at one queue and what may be done with it.
func (c *Conn) inspectQueue(q Queue, name string, report Report) {
	what := "queue " + name
	var state amqp.Queue
	err := c.OnChannel(func(ch *amqp.Channel) (err error) {
		state, err = ch.QueueDeclarePassive(name, true, false, false, false, nil)
		return err
	})
	if err == nil && !q.Passive {
		for _, d := range q.Declarations()[:2] {
			if d.What == what {
				err = c.OnChannel(d.Make) // changes nothing: it is there
			}
		}
	}
	if err == nil && name == q.Name {
		err = c.OnChannel(func(ch *amqp.Channel) error { return MayConsume(ch, name) })
	}
	if err == nil {
		text := Plural(state.Messages, "message", "messages") + " ready, " + Plural(state.Consumers, "consumer", "consumers")
		report(Finding{Severity: SeverityOK, What: what, Text: text, Queue: &Counts{name, state.Messages, state.Consumers}})
		return
	}
	if IsMissing(err) && !q.Passive {
		if denied := c.OnChannel(func(ch *amqp.Channel) error { return MayDeclare(ch, name) }); denied != nil {
			err = denied
		}
	}
	ReportLook(report, Declaration{What: what, Remedies: q.remedies()}, err, !q.Passive, q.EnvPrefix, "")
}

// inspectWaits looks at the wait queues of a work queue and reports them in one line.
// Those that have not been needed yet are not there.
func (c *Conn) inspectWaits(q Queue, report Report) {
	what := "wait queues of " + q.Name
	there, waiting, missing := 0, 0, time.Duration(0)
	for _, d := range q.Waits() {
		decl := q.DeclareWait(d)
		ready, err := c.ready(q.WaitName(d))
		if err == nil {
			err = c.OnChannel(decl.Make) // changes nothing: it is there
		}
		switch {
		case err == nil:
			there, waiting = there+1, waiting+ready
		case IsMissing(err):
			missing = d
		default:
			report.Fault(what, decl.Explain(err, false, q.EnvPrefix).Error())
			return
		}
	}
	if missing > 0 {
		if err := c.OnChannel(func(ch *amqp.Channel) error { return MayDeclare(ch, q.WaitName(missing)) }); err != nil {
			report.Fault(what, q.DeclareWait(missing).Explain(err, false, q.EnvPrefix).Error())
			return
		}
	}
	report.OK(what, fmt.Sprintf("%d of %d are there; each is declared when it is first needed", there, len(q.Waits())))
	if waiting > 0 {
		text := Plural(waiting, "message waits for a delay or its next attempt", "messages wait for a delay or their next attempt")
		report(Finding{Severity: SeverityNote, What: "waits of " + q.Name, Text: text, Cure: "warren waiting list " + q.Name + " shows them"})
	}
}

// ReportReplicas reports how to see which queues have too few replicas, which AMQP does
// not tell, to whoever has so many nodes.
func (c *Conn) ReportReplicas(nodes int, report Report) {
	if nodes == 1 {
		return
	}
	report.OK("replicas", fmt.Sprintf("not known to AMQP; on a node, rabbitmqctl list_queues -p %s name members shows "+
		"which queues have fewer than there are nodes, and rabbitmq-queues grow adds them; or set WARREN_MANAGEMENT_URL", c.Config.Vhost))
}

// ReportLook reports what looking at something came to. Where it may be declared,
// it is no fault that it is missing.
func ReportLook(report Report, d Declaration, err error, mayDeclare bool, envPrefix, text string) {
	switch {
	case err == nil:
		report.OK(d.What, text)
	case IsMissing(err) && mayDeclare:
		report.OK(d.What, "is missing; warren declares it when it starts")
	default:
		text := d.Explain(err, !mayDeclare, envPrefix).Error()
		report.Fault(d.What, strings.TrimLeft(strings.TrimPrefix(text, d.What), ": "))
	}
}

// MayConsume asks to consume with an argument that the broker must refuse. It
// looks at the permission and the queue first, so that nothing is handed out
// whatever it answers.
func MayConsume(ch *amqp.Channel, queue string) error {
	_, err := ch.Consume(queue, "", false, false, false, false, amqp.Table{"x-priority": "none"})
	if reply, ok := errors.AsType[*amqp.Error](err); ok && reply.Code == amqp.PreconditionFailed {
		return nil
	}
	return err
}

// MayDeclare asks for a queue that is missing with an argument that the broker must refuse. It
// looks at the permission first, so that nothing is declared whatever it answers.
func MayDeclare(ch *amqp.Channel, queue string) error {
	_, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{amqp.QueueMaxLenArg: "none"})
	if reply, ok := errors.AsType[*amqp.Error](err); ok && reply.Code == amqp.PreconditionFailed {
		return nil
	}
	return err
}

// MayPublish publishes in a transaction, and rolls it back. A broker with an alarm would
// not answer: what has not been answered soon counts as that.
func (c *Conn) MayPublish(ctx context.Context) error {
	answers := make(chan error, 1)
	go func() { // ends with the connection at the latest
		answers <- c.OnChannel(func(ch *amqp.Channel) error {
			if err := ch.Tx(); err != nil {
				return err
			}
			if err := ch.PublishWithContext(ctx, "", "", false, false, amqp.Publishing{}); err != nil {
				return err
			}
			return ch.TxRollback()
		})
	}()
	late := time.After(answerTimeout)
	looks := time.NewTicker(answerTimeout / 100)
	defer looks.Stop()
	for {
		select {
		case err := <-answers:
			return err
		case <-late:
			return ErrBlocked
		case <-looks.C:
			if why := c.blockedFor.Load(); why != nil && c.Blocked() {
				return fmt.Errorf("the broker has an alarm, it is %s, and takes no messages; rabbitmq-diagnostics alarms on its nodes shows on which, df -h and their memory why", *why)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// answerTimeout is how long a broker that works may take to answer.
const answerTimeout = 5 * time.Second

// Inspect connects to every node, reports what comes of it, and returns the connection to
// the first that can be used; nil if none can.
func (d Dialer) Inspect(ctx context.Context, nodes []string, report Report) *Conn {
	var first *Conn
	for _, node := range nodes {
		what := "node " + NodeName(node)
		c, err := d.Dial(ctx, node, Options{Purpose: "check"})
		if err != nil {
			report.Fault(what, err.Error())
			continue
		}
		report(c.Version.finding(what, c.Config.Vhost))
		if first == nil {
			first = c
		} else {
			c.Close()
		}
	}
	return first
}
