package broker

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// DeliveryLimit is how often the broker hands a message out again after its
	// consumer was lost; then it dead-letters it. It catches a message that kills
	// the process.
	DeliveryLimit = 20
	// SuspectAfter is the delivery count from which a message is suspected of having killed
	// the processes that it was handed to. A channel that begins with such messages takes
	// few of them at once: whatever else the broker had handed out would be counted, too,
	// and dead-lettered with them in the end.
	SuspectAfter = DeliveryLimit / 4
	// lookedAtLimit lets an operator look into a dead-letter or wait queue as often as
	// ever: each look counts on some brokers, and past the limit the message would
	// be dropped, or come home early.
	lookedAtLimit = 1_000_000
)

// Queue types.
const (
	Quorum  = amqp.QueueTypeQuorum
	Classic = amqp.QueueTypeClassic
)

// A Queue is a work queue as the broker has to know it.
type Queue struct {
	Name        string
	Type        string        // Quorum or Classic
	Passive     bool          // nothing may be declared
	MaxPriority int           // of a classic queue; zero means none
	Exchange    string        // to bind it to; empty means none
	RoutingKeys []string      // of these bindings; none means one with the empty key
	RetryMax    time.Duration // the longest wait between two attempts
	Held        time.Duration // how long a delivery may wait for its slot and be worked
	EnvPrefix   string        // of its variables, which errors name
}

// DeadLetterQueue is the name of the queue's dead-letter queue.
func (q Queue) DeadLetterQueue() string { return q.Name + ".dead" }

// A Declaration makes sure of one queue or binding on a channel of its own, that an
// error of the broker closes.
type Declaration struct {
	What string // "queue emails"
	Make func(*amqp.Channel) error
	Look func(*amqp.Channel) error
	// Remedies settle what keeps it from being declared. Nil means those of work queues.
	Remedies *Remedies
	// Before is what it may be, too, if it is there: what was declared on an older broker.
	// Nil means nothing.
	Before func(*amqp.Channel) error
}

// Declarations of the work queue, itself first: if it exists with other arguments, such as
// another type, nothing is declared beside it that would not fit it.
func (q Queue) Declarations() []Declaration {
	out := []Declaration{
		q.declare(q.Name, q.arguments()),
		q.declare(q.DeadLetterQueue(), q.deadLetterArguments()),
	}
	keys := q.RoutingKeys
	if len(keys) == 0 {
		keys = []string{""}
	}
	for _, key := range keys {
		if q.Exchange == "" {
			break
		}
		out = append(out, Declaration{
			What:     fmt.Sprintf("binding of queue %s to exchange %s (%sEXCHANGE) with routing key %q", q.Name, q.Exchange, q.EnvPrefix, key),
			Remedies: q.remedies(),
			Make:     func(ch *amqp.Channel) error { return ch.QueueBind(q.Name, key, q.Exchange, false, nil) },
			Look:     func(*amqp.Channel) error { return nil }, // AMQP has no way to look at a binding
		})
	}
	return out
}

// declare is the Declaration of one of the work queue's own.
func (q Queue) declare(name string, args amqp.Table) Declaration {
	d := DeclareQueue(name, args)
	d.Remedies = q.remedies()
	return d
}

// DeclareQueue is the Declaration of a durable queue.
func DeclareQueue(name string, args amqp.Table) Declaration {
	return Declaration{
		What: "queue " + name,
		Make: func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(name, true, false, false, false, args)
			return err
		},
		Look: func(ch *amqp.Channel) error {
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
		"x-dead-letter-routing-key": q.DeadLetterQueue(),
	}
	if q.Type == Quorum {
		args["x-dead-letter-strategy"] = "at-least-once"
		args["x-delivery-limit"] = int64(DeliveryLimit)
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

// tokenReturns is how long the token of a leader stays with it that may be on a node which
// has lost touch with the others. It can do nothing there: its firings are not confirmed.
const tokenReturns = 5 * time.Second

// DeclareTokens is the Declaration of the queue of a schedule's tokens.
func DeclareTokens(name string, v Version) Declaration {
	plain := DeclareQueue(name, TokenArguments())
	if !v.DisconnectedArgument {
		return plain
	}
	args := TokenArguments()
	args["x-consumer-disconnected-timeout"] = tokenReturns.Milliseconds()
	d := DeclareQueue(name, args)
	d.Before = plain.Make
	return d
}

// TokenArguments are those of the queue of a schedule's tokens on every version. A token is
// handed out once for each leader that dies, which no limit shall count.
func TokenArguments() amqp.Table {
	return amqp.Table{
		amqp.QueueTypeArg:            amqp.QueueTypeQuorum,
		amqp.SingleActiveConsumerArg: true,
		"x-delivery-limit":           int64(lookedAtLimit),
	}
}

// Ensure makes sure of all declarations, each on a channel of its own, or only looks
// whether they are there. The error joins what is wrong with each.
func (c *Conn) Ensure(decls []Declaration, passive bool, envPrefix string) error {
	var errs []error
	var ch *amqp.Channel
	for _, d := range decls {
		if ch == nil || ch.IsClosed() {
			var err error
			if ch, err = c.Channel(); err != nil {
				return errors.Join(append(errs, fmt.Errorf("open a channel: %w", err))...)
			}
		}
		do := d.Make
		if passive {
			do = d.Look
		}
		err := do(ch)
		if !passive && d.Before != nil && differs(err) {
			err = c.OnChannel(d.Before)
		}
		if err == nil {
			continue
		}
		errs = append(errs, d.Explain(err, passive, envPrefix))
		if differs(err) {
			break // what belongs to it has to fit it
		}
	}
	if ch != nil && !ch.IsClosed() {
		if err := ch.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close a channel: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Declare makes one declaration. Its error is the broker's own.
func (c *Conn) Declare(d Declaration) error {
	err := c.OnChannel(d.Make)
	if d.Before != nil && differs(err) {
		err = c.OnChannel(d.Before)
	}
	return err
}

// differs tells whether something exists with other arguments.
func differs(err error) bool {
	reply, ok := errors.AsType[*amqp.Error](err)
	return ok && reply.Code == amqp.PreconditionFailed
}

// Redeclare returns what declares one of the queue's own again, after somebody has
// deleted it; nil if that name is none of them.
func (q Queue) Redeclare(name string) func(*Conn) error {
	if name == q.Name || name == q.DeadLetterQueue() {
		return func(c *Conn) error { return c.Ensure(q.Declarations(), q.Passive, q.EnvPrefix) }
	}
	for _, d := range q.Waits() {
		if name == q.WaitName(d) { // Warren's own, also where the work queue is not
			return func(c *Conn) error { return c.Ensure([]Declaration{q.DeclareWait(d)}, false, q.EnvPrefix) }
		}
	}
	return nil
}

// inequivalent reads the broker's words, the only place where it names the
// argument and the values that differ.
var inequivalent = regexp.MustCompile(`inequivalent arg '([^']+)'.*?received (?:the value )?('[^']*'|none).*? but current is (?:the value )?('[^']*'|none)`)

// Remedies say what settles that something cannot be declared, as the end of a sentence.
type Remedies struct {
	Missing, NotPermitted string
	Differs               func(argument string) string
}

// Explain says what kept d from being declared, and the remedy.
func (d Declaration) Explain(err error, passive bool, envPrefix string) error {
	what, remedies := d.What, d.Remedies
	if remedies == nil {
		remedies = Queue{Name: "QUEUE", Type: Quorum, EnvPrefix: envPrefix}.remedies()
	}
	reply, ok := errors.AsType[*amqp.Error](err)
	if !ok {
		return fmt.Errorf("%s: %w", what, err)
	}
	f := &Fault{Cause: err, Lasting: true}
	switch reply.Code {
	case amqp.NotFound:
		remedy := remedies.Missing
		if strings.Contains(reply.Reason, "no exchange") {
			remedy = "declare the exchange first, as its publisher does"
		}
		f.Text = fmt.Sprintf("%s is missing; %s (%s)", what, remedy, reply.Reason)
		// A quorum queue without its majority is reported as not found, too.
		f.Lasting = !passive || !unavailable.MatchString(reply.Reason)
	case amqp.AccessRefused:
		f.Text = fmt.Sprintf("%s: not permitted (%s); %s", what, reply.Reason, remedies.NotPermitted)
	case amqp.PreconditionFailed:
		m := inequivalent.FindStringSubmatch(reply.Reason)
		if m == nil {
			f.Text = fmt.Sprintf("%s: the broker refuses its arguments: %s", what, reply.Reason)
			break
		}
		f.Text = fmt.Sprintf("%s exists with another %s: Warren wants %s, it has %s; %s", what, m[1], m[2], m[3], remedies.Differs(m[1]))
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
	return f
}

var unavailable = regexp.MustCompile(`(?i)unavailable|timeout|noproc|nodedown`)

// remedies are those for the queues of a work queue.
func (q Queue) remedies() *Remedies {
	return &Remedies{
		Missing:      "declare it as the documentation lists, or set " + q.EnvPrefix + "DECLARE=true",
		NotPermitted: "grant it with rabbitmqctl set_permissions, or declare it elsewhere and set " + q.EnvPrefix + "DECLARE=false",
		Differs:      q.settle,
	}
}

// settle names the variable or policy that settles a difference in an argument.
func (q Queue) settle(argument string) string {
	switch argument {
	case "x-queue-type":
		return "set " + q.EnvPrefix + "TYPE to the type it has, or move its messages and delete it"
	case "x-max-priority":
		return "set " + q.EnvPrefix + "MAX_PRIORITY to the value it has, or move its messages and delete it"
	}
	// RabbitMQ applies no part of a policy that has a key which the type of the queue does
	// not know.
	policy := fmt.Sprintf(`{"dead-letter-exchange":"","dead-letter-routing-key":"%s","overflow":"reject-publish"}`, q.DeadLetterQueue())
	if q.Type == Quorum {
		policy = strings.TrimSuffix(policy, "}") + fmt.Sprintf(`,"dead-letter-strategy":"at-least-once","delivery-limit":%d}`, DeliveryLimit)
	}
	return fmt.Sprintf(`to keep the queue as it is, set %sDECLARE=false and give it what it lacks by a policy: rabbitmqctl set_policy %s '^%s$' '%s' --apply-to queues; or move its messages and delete it`,
		q.EnvPrefix, q.Name, regexp.QuoteMeta(q.Name), policy)
}
