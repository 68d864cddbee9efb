package consumer

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// deliveryLimit is how often the broker hands a message out again after its
	// consumer was lost; then it dead-letters it. It catches a message that kills
	// the process.
	deliveryLimit = 20
	// lookedAtLimit lets an operator look into a dead-letter or wait queue as often as
	// ever: each look counts on some brokers, and past the limit the message would
	// be dropped, or come home early.
	lookedAtLimit = 1_000_000
)

// A topology is what a Consumer needs on the broker.
type topology struct {
	queues []Queue
	waits  []time.Duration // none if nothing may be declared and nothing waits
}

func topologyOf(queues []Queue) topology {
	var longest time.Duration
	for _, q := range queues {
		longest = max(longest, q.RetryMax)
	}
	return topology{queues, waitSteps(longest)}
}

// longestWait is the longest wait queue there is.
func (t topology) longestWait() time.Duration { return t.waits[len(t.waits)-1] }

// passive is true if no queue permits anything to be declared. The wait queues
// are shared, so that one that does is enough.
func (t topology) passive() bool {
	for _, q := range t.queues {
		if !q.Passive {
			return false
		}
	}
	return true
}

// A declaration makes sure of one queue or exchange on a channel of its own, that
// an error of the broker closes.
type declaration struct {
	what string // "queue emails"
	make func(*amqp.Channel) error
	look func(*amqp.Channel) error
}

// declarations of the wait queues.
func (t topology) waitDeclarations() []declaration {
	var out []declaration
	for _, d := range t.waits {
		name := waitName(d)
		out = append(out, declaration{
			what: "wait queue " + name,
			make: func(ch *amqp.Channel) error {
				if err := ch.ExchangeDeclare(name, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
					return err
				}
				if _, err := ch.QueueDeclare(name, true, false, false, false, waitArguments(d)); err != nil {
					return err
				}
				return ch.QueueBind(name, "", name, false, nil)
			},
			look: func(ch *amqp.Channel) error {
				if err := ch.ExchangeDeclarePassive(name, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
					return err
				}
				_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
				return err
			},
		})
	}
	return out
}

func waitArguments(d time.Duration) amqp.Table {
	return amqp.Table{
		amqp.QueueTypeArg:        amqp.QueueTypeQuorum,
		amqp.QueueMessageTTLArg:  d.Milliseconds(),
		"x-dead-letter-exchange": "", // the default exchange takes it home by its routing key
		"x-dead-letter-strategy": "at-least-once",
		amqp.QueueOverflowArg:    amqp.QueueOverflowRejectPublish,
		"x-delivery-limit":       int64(lookedAtLimit),
	}
}

// declarations of one work queue, its dead-letter queue first: the work queue
// must never be without a place to send what fails.
func (q Queue) declarations() []declaration {
	out := []declaration{
		q.declareQueue(q.deadLetterQueue(), q.deadLetterArguments()),
		q.declareQueue(q.Name, q.arguments()),
	}
	keys := q.RoutingKeys
	if len(keys) == 0 {
		keys = []string{""}
	}
	for _, key := range keys {
		if q.Exchange == "" {
			break
		}
		out = append(out, declaration{
			what: fmt.Sprintf("binding of queue %s to exchange %s (%sEXCHANGE) with routing key %q", q.Name, q.Exchange, q.EnvPrefix, key),
			make: func(ch *amqp.Channel) error { return ch.QueueBind(q.Name, key, q.Exchange, false, nil) },
			look: func(*amqp.Channel) error { return nil }, // AMQP has no way to look at a binding
		})
	}
	return out
}

func (q Queue) declareQueue(name string, args amqp.Table) declaration {
	return declaration{
		what: "queue " + name,
		make: func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(name, true, false, false, false, args)
			return err
		},
		look: func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
			return err
		},
	}
}

func (q Queue) arguments() amqp.Table {
	args := amqp.Table{
		amqp.QueueTypeArg:           q.Type,
		amqp.QueueOverflowArg:       amqp.QueueOverflowRejectPublish,
		"x-dead-letter-exchange":    "",
		"x-dead-letter-routing-key": q.deadLetterQueue(),
	}
	if q.Type == Quorum {
		args["x-dead-letter-strategy"] = "at-least-once"
		args["x-delivery-limit"] = int64(deliveryLimit)
	}
	if q.MaxPriority > 0 {
		args["x-max-priority"] = int64(q.MaxPriority)
	}
	return args
}

func (q Queue) deadLetterArguments() amqp.Table {
	args := amqp.Table{
		amqp.QueueTypeArg:     q.Type,
		amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish,
	}
	if q.Type == Quorum {
		args["x-delivery-limit"] = int64(lookedAtLimit)
	}
	return args
}

// ensure makes sure of all declarations, each on a channel of its own, or only
// looks whether they are there. The error joins what is wrong with each.
func ensure(conn *amqp.Connection, decls []declaration, passive bool, envPrefix string) error {
	var errs []error
	var ch *amqp.Channel
	for _, d := range decls {
		if ch == nil || ch.IsClosed() {
			var err error
			if ch, err = conn.Channel(); err != nil {
				return errors.Join(append(errs, fmt.Errorf("open a channel: %w", err))...)
			}
		}
		do := d.make
		if passive {
			do = d.look
		}
		if err := do(ch); err != nil {
			errs = append(errs, explainDeclare(d.what, err, passive, envPrefix))
		}
	}
	if ch != nil && !ch.IsClosed() {
		if err := ch.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close a channel: %w", err))
		}
	}
	return errors.Join(errs...)
}

// inequivalent reads the broker's words, the only place where it names the
// argument and the values that differ.
var inequivalent = regexp.MustCompile(`inequivalent arg '([^']+)'.*?received (?:the value )?('[^']*'|none).*? but current is (?:the value )?('[^']*'|none)`)

// explainDeclare says what kept something from being declared, and the remedy.
func explainDeclare(what string, err error, passive bool, envPrefix string) error {
	reply, ok := errors.AsType[*amqp.Error](err)
	if !ok {
		return fmt.Errorf("%s: %w", what, err)
	}
	f := &fault{cause: err, lasting: true}
	switch reply.Code {
	case amqp.NotFound:
		remedy := "declare the exchange first, as its publisher does"
		if passive {
			remedy = "declare it as the documentation lists, or set " + envPrefix + "DECLARE=true"
		}
		f.text = fmt.Sprintf("%s is missing; %s (%s)", what, remedy, reply.Reason)
		// A quorum queue without its majority is reported as not found, too.
		f.lasting = !passive || !unavailable.MatchString(reply.Reason)
	case amqp.AccessRefused:
		f.text = fmt.Sprintf("%s: not permitted (%s); grant it with rabbitmqctl set_permissions, or declare it elsewhere and set %sDECLARE=false",
			what, reply.Reason, envPrefix)
	case amqp.PreconditionFailed:
		m := inequivalent.FindStringSubmatch(reply.Reason)
		if m == nil {
			f.text = fmt.Sprintf("%s: the broker refuses its arguments: %s", what, reply.Reason)
			break
		}
		f.text = fmt.Sprintf("%s exists with another %s: Warren wants %s, it has %s; %s", what, m[1], m[2], m[3], remedyFor(m[1], envPrefix))
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
	return f
}

var unavailable = regexp.MustCompile(`(?i)unavailable|timeout|noproc|nodedown`)

// remedyFor names the variable or policy that settles a difference in an argument.
func remedyFor(argument, envPrefix string) string {
	declare := "to keep the queue as it is, set " + envPrefix + "DECLARE=false and give it "
	policy := func(definition string) string {
		return declare + `a policy: rabbitmqctl set_policy NAME "^QUEUE$" '` + definition + `'`
	}
	switch argument {
	case "x-queue-type":
		return "set " + envPrefix + "TYPE to the type it has, or move its messages and delete it"
	case "x-max-priority":
		return "set " + envPrefix + "MAX_PRIORITY to the value it has, or move its messages and delete it"
	case "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-dead-letter-strategy":
		return policy(`{"dead-letter-exchange":"","dead-letter-routing-key":"QUEUE.dead","dead-letter-strategy":"at-least-once","overflow":"reject-publish"}`)
	case "x-overflow":
		return policy(`{"overflow":"reject-publish"}`)
	case "x-delivery-limit":
		return policy(`{"delivery-limit":` + fmt.Sprint(deliveryLimit) + `}`)
	default:
		return declare + "what the documentation lists, or move its messages and delete it"
	}
}
