package consumer

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/schedule"
)

// Config is what a [Consumer] is made from.
type Config struct {
	// Nodes are the AMQP URLs of the nodes of one cluster, tried in this order.
	// At least one is required.
	Nodes []string
	// ReadNodes returns Nodes as they are now, read from NodesFrom, for new passwords to
	// count from the next connection on. Nil means that they stay what they are.
	ReadNodes func() ([]string, error)
	NodesFrom string
	// User is the name by which the broker knows this process, and by which it believes
	// what Warren wrote into the headers of messages. Empty means that of the URL.
	User string
	// Queues are the queues to consume. At least one is required; a name may
	// stand only once.
	Queues []Queue
	// Schedules publish messages at planned times. Each name may stand only once.
	Schedules []schedule.Schedule
	// ShutdownTimeout is how long work may go on after the context given to Run
	// has ended. Then its context ends too, with cause ErrShutdown, and one more
	// second later it is abandoned. Zero means 25s.
	ShutdownTimeout time.Duration
	// Program is what this program is called, in the names of its connections and in the
	// app-id of what its schedules publish. Empty means warren.
	Program string
	// Worker names this process in what it writes to messages: host and version.
	Worker string
	// Version is the program's, for the metrics and for schedules that fire once.
	Version string
	// Outbox has messages that are published while Run runs. Nil means that there is none.
	Outbox Outbox
	// Database keeps transactions and the inbox. Nil means that there are none.
	// It is closed by whoever made it, after Run has returned.
	Database Database
	// Observer is told what becomes of messages. Nil means that nobody is.
	Observer Observer
	// ControlUsers are obeyed when they ask something of all daemons through the broker.
	// None means whoever the broker knows by the same name as this process.
	ControlUsers []string
	// LogLevel is that of the log, for those users to change. Nil means that it stays.
	LogLevel *slog.LevelVar
	// Telemetry says where spans and metrics go. Zero means nowhere.
	Telemetry Telemetry
}

// Queue types.
const (
	Quorum  = broker.Quorum
	Classic = broker.Classic
)

// A Queue says how the deliveries of one queue are worked.
type Queue struct {
	// Name of the queue. Required.
	Name string
	// Processor does the work. Required.
	Processor Processor
	// Concurrency is how many deliveries are worked on at once. Zero means 8.
	Concurrency int
	// Prefetch is how many deliveries the broker may hand out before one is
	// acknowledged; at least Concurrency. Zero means what keeps a tenth of a second of
	// work at hand: at least twice the concurrency, and no more where attempts are slow,
	// starts are limited by Rate or messages have priorities.
	Prefetch int
	// Timeout bounds one attempt. Zero means 5m.
	Timeout time.Duration
	// MaxAttempts is how often a message is tried before it is dead-lettered.
	// Zero means 20; 1 means no retry.
	MaxAttempts int
	// RetryBase is the wait after the first failed attempt; each further wait is
	// twice as long. Zero means 1s.
	RetryBase time.Duration
	// RetryMax caps those waits. Zero means 1h.
	RetryMax time.Duration
	// Type is Quorum or Classic. Empty means Quorum.
	Type string
	// Passive is true if nothing may be declared: what is missing is an error.
	Passive bool
	// MaxPriority, of a classic queue only, is its highest message priority.
	// Zero means no priorities.
	MaxPriority int
	// Exchange, if not empty, is an existing exchange to bind the queue to, with
	// each of RoutingKeys, or with the empty key if there is none.
	Exchange    string
	RoutingKeys []string
	// Rate is how many deliveries may be started a second. Zero means any number.
	Rate float64
	// Unbraked is true if messages are taken on and on when what the processor depends
	// on looks down. Otherwise they then stay in the queue, but for one at a time.
	Unbraked bool
	// MaxBodyBytes is the longest body that is worked; a longer one is dead-lettered.
	// Zero means any length.
	MaxBodyBytes int
	// ReplyTo are patterns, as path.Match has them, of the queues that results may be
	// published to. None means any queue but those that are worked and what ends in
	// .dead. One of Warren's own is never among them.
	ReplyTo []string
	// EnvPrefix is what the names of this queue's variables begin with, such as
	// WARREN_QUEUE_EMAILS_; errors name the variable that settles them.
	EnvPrefix string
	// Settings tells this configuration from another one of the same queue. It is shown.
	Settings string

	sizes bool // Prefetch is not set
}

// onBroker is the queue as the broker has to know it.
func (q Queue) onBroker() broker.Queue {
	return broker.Queue{
		Name: q.Name, Type: q.Type, Passive: q.Passive, MaxPriority: q.MaxPriority,
		Exchange: q.Exchange, RoutingKeys: q.RoutingKeys, RetryMax: q.RetryMax, EnvPrefix: q.EnvPrefix,
		Held: q.Timeout * time.Duration((q.Prefetch+q.Concurrency-1)/max(1, q.Concurrency)),
	}
}

// withDefaults returns c with each zero value replaced by what it means.
func (c Config) withDefaults() Config {
	c.Telemetry = c.Telemetry.withDefaults()
	c.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, 25*time.Second)
	queues := make([]Queue, len(c.Queues))
	for i, q := range c.Queues {
		q.Concurrency = cmp.Or(q.Concurrency, 8)
		q.sizes = q.Prefetch == 0 && q.Rate == 0 && q.MaxPriority == 0
		q.Prefetch = cmp.Or(q.Prefetch, 2*q.Concurrency)
		q.Timeout = cmp.Or(q.Timeout, 5*time.Minute)
		q.MaxAttempts = cmp.Or(q.MaxAttempts, 20)
		q.RetryBase = cmp.Or(q.RetryBase, time.Second)
		q.RetryMax = cmp.Or(q.RetryMax, time.Hour)
		q.Type = cmp.Or(q.Type, Quorum)
		queues[i] = q
	}
	c.Queues = queues
	return c
}

// maxPrefetch is the most that AMQP's 16 bits can say.
const maxPrefetch = 65535

// Validate returns every fault of c, joined, each naming the queue and, where
// there is one, the variable. Zero values are valid where Config says what they
// mean.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if len(c.Nodes) == 0 {
		fault("no node to connect to")
	}
	if len(c.Queues) == 0 {
		fault("no queue to consume")
	}
	if c.ShutdownTimeout < 0 {
		fault("the shutdown timeout is negative")
	}
	seen := make(map[string]bool)
	for _, q := range c.Queues {
		of := func(name string) string { return q.EnvPrefix + name }
		if q.Name == "" {
			fault("a queue has no name")
		}
		if seen[q.Name] {
			fault("queue %s stands in the list of queues twice", q.Name)
		}
		seen[q.Name] = true
		if len(q.Name) > broker.MaxQueueName {
			fault("queue name %.20s... is too long: it may have %d bytes, so that its wait queues can be named after it", q.Name, broker.MaxQueueName)
		}
		if strings.HasPrefix(q.Name, broker.OwnPrefix) {
			fault("queue %s: names that begin with %s are for Warren's own queues", q.Name, broker.OwnPrefix)
		}
		if q.Processor == nil {
			fault("queue %s has no processor", q.Name)
		}
		if q.Concurrency < 1 {
			fault("%s is %d; it must be at least 1", of("CONCURRENCY"), q.Concurrency)
		}
		if q.Prefetch < q.Concurrency || q.Prefetch > maxPrefetch {
			fault("%s is %d; it must be from the concurrency (%d) to %d", of("PREFETCH"), q.Prefetch, q.Concurrency, maxPrefetch)
		}
		if q.MaxAttempts < 1 {
			fault("%s is %d; it must be at least 1", of("MAX_ATTEMPTS"), q.MaxAttempts)
		}
		for _, d := range []struct {
			name string
			d    time.Duration
		}{{"TIMEOUT", q.Timeout}, {"RETRY_BASE", q.RetryBase}, {"RETRY_MAX", q.RetryMax}} {
			if d.d < 0 {
				fault("%s is %v; it must be positive", of(d.name), d.d)
			}
		}
		if q.RetryMax < q.RetryBase {
			fault("%s is %v; it must be at least %s (%v)", of("RETRY_MAX"), q.RetryMax, of("RETRY_BASE"), q.RetryBase)
		}
		if q.Type != Quorum && q.Type != Classic {
			fault("%s is %q; it must be %s or %s", of("TYPE"), q.Type, Quorum, Classic)
		}
		if q.MaxPriority != 0 && q.Type != Classic {
			fault("%s is for classic queues; quorum queues have their own fixed priorities", of("MAX_PRIORITY"))
		}
		if q.MaxPriority < 0 || q.MaxPriority > 255 {
			fault("%s is %d; it must be from 1 to 255, 10 or less is wise", of("MAX_PRIORITY"), q.MaxPriority)
		}
		if len(q.RoutingKeys) > 0 && q.Exchange == "" {
			fault("%s is set, but not %s to bind the queue to", of("ROUTING_KEYS"), of("EXCHANGE"))
		}
		for _, pattern := range q.ReplyTo {
			if _, err := path.Match(pattern, ""); err != nil {
				fault("%s has the pattern %q, which cannot be read: %v", of("REPLY_TO"), pattern, err)
			}
		}
		if q.MaxBodyBytes < 0 {
			fault("%s is %d; it must be positive", of("MAX_BODY_BYTES"), q.MaxBodyBytes)
		}
		if q.Rate < 0 {
			fault("%s is %v; it must be positive", of("RATE"), q.Rate)
		}
	}
	if err := c.schedules(broker.Dialer{}).Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c Config) queueNames() []string {
	names := make([]string, len(c.Queues))
	for i, q := range c.Queues {
		names[i] = q.Name
	}
	return names
}

// schedules are what the schedules need of c.
func (c Config) schedules(d broker.Dialer) schedule.Config {
	out := schedule.Config{Schedules: c.Schedules, Version: c.Version, Dialer: d, Passive: true, MeterProvider: c.Telemetry.MeterProvider}
	for _, q := range c.Queues {
		out.Queues = append(out.Queues, q.onBroker())
		out.Passive = out.Passive && q.Passive
	}
	return out
}
