package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/processors"
	"github.com/warrenmq/warren/telemetry"
)

// brokerSettings are the variables that every subcommand with a broker needs.
type brokerSettings struct {
	AMQPURL string `envconfig:"AMQP_URL" default:"amqp://guest:guest@localhost:5672/" secret:"true" desc:"The broker, amqps:// for TLS; several nodes of a cluster, comma-separated, in the order to try them; special characters percent-encoded."`
}

// daemonSettings are the variables of the daemon as a whole.
type daemonSettings struct {
	Queues          []string      `envconfig:"QUEUES" required:"true" desc:"The queues to work, comma-separated; the variables of each are named after it, in upper case and with - and . as _."`
	Schedules       []string      `envconfig:"SCHEDULES" desc:"Schedules that publish messages at planned times, comma-separated; the variables of each are named as a queue's are."`
	ShutdownTimeout time.Duration `envconfig:"SHUTDOWN_TIMEOUT" default:"25s" positive:"true" desc:"How long work may go on after SIGTERM or SIGINT; what is not finished then goes back to its queue."`
	LogLevel        slog.Level    `envconfig:"LOG_LEVEL" default:"info" desc:"The least that is logged: debug, info, warn or error."`
	LogFormat       string        `envconfig:"LOG_FORMAT" default:"auto" desc:"json, text, journal (systemd's, with fields), or auto: the journal under systemd, text on a terminal, else json."`
	AdminAddr       string        `envconfig:"ADMIN_ADDR" default:"127.0.0.1:9466" desc:"Where /metrics, /healthz, /readyz and the API of docs/http.md are served; empty: nowhere. Another one for each daemon on a machine."`
	AdminToken      string        `envconfig:"ADMIN_TOKEN" secret:"true" desc:"What requests there must bear as Authorization: Bearer, at least 16 characters; required unless the address is a loopback one, and for the API always."`
	AdminMaxBody    int           `envconfig:"ADMIN_MAX_BODY_BYTES" default:"1048576" positive:"true" desc:"The longest body that the API takes for a message."`
	AdminPprof      bool          `envconfig:"ADMIN_PPROF" default:"false" desc:"Whether /debug/pprof/ is served there, too."`
	TraceLink       bool          `envconfig:"TRACE_LINK" default:"false" desc:"Whether a message begins a trace of its own, linked to its publisher's, rather than continuing that. The OTEL_ variables say where traces go."`
}

// databaseSettings are the variables of the database, and what is kept there.
type databaseSettings struct {
	URL       string        `envconfig:"DATABASE_URL" secret:"true" desc:"postgres://user:password@host:5432/name or sqlite:/path/of/the/file: for transactions, the inbox and the outbox; not set, there are none."`
	Migrate   bool          `envconfig:"MIGRATE" default:"false" desc:"Whether to create or update Warren's own tables there at the start, as warren migrate does."`
	InboxTTL  time.Duration `envconfig:"INBOX_TTL" default:"168h" positive:"true" desc:"How long a message that was worked is recognised by its message-id."`
	StatusTTL time.Duration `envconfig:"STATUS_TTL" default:"168h" desc:"How long it is kept there where a message stands, for who asks over HTTP; 0: it is not."`
}

// queueSettings are the variables of each queue, whatever its processor.
type queueSettings struct {
	Processor   string        `envconfig:"PROCESSOR" required:"true" desc:"What is done with a delivery: command, email, log, report, sql or webhook."`
	Concurrency int           `envconfig:"CONCURRENCY" default:"8" positive:"true" desc:"How many deliveries are worked on at once."`
	Prefetch    int           `envconfig:"PREFETCH" desc:"How many deliveries the broker hands out ahead; not set, twice the concurrency."`
	Timeout     time.Duration `envconfig:"TIMEOUT" default:"5m" positive:"true" desc:"How long one attempt may take."`
	MaxAttempts int           `envconfig:"MAX_ATTEMPTS" default:"8" positive:"true" desc:"How often a message is tried before it goes to the dead-letter queue; 1 means no retry."`
	RetryBase   time.Duration `envconfig:"RETRY_BASE" default:"1s" positive:"true" desc:"The wait after the first failed attempt; each further one is twice as long."`
	RetryMax    time.Duration `envconfig:"RETRY_MAX" default:"1h" positive:"true" desc:"The longest wait between two attempts."`
	Type        string        `envconfig:"TYPE" default:"quorum" desc:"The type of queue that is declared: quorum or classic."`
	Declare     bool          `envconfig:"DECLARE" default:"true" desc:"Whether to declare the queues; false: they must be there as the documentation lists them."`
	MaxPriority int           `envconfig:"MAX_PRIORITY" desc:"The highest message priority of a classic queue; not set, it has none."`
	Exchange    string        `envconfig:"EXCHANGE" desc:"An existing exchange to bind the queue to."`
	RoutingKeys []string      `envconfig:"ROUTING_KEYS" desc:"The routing keys of these bindings, comma-separated; not set, one binding with the empty key."`
	Rate        float64       `envconfig:"RATE" desc:"How many deliveries may be started a second, 0.5 being one in two seconds; not set, any number."`
}

// standard are the processors that there are.
var standard = processors.Standard()

// A config is all that the daemon is started with.
type config struct {
	open      []func() error // makes the processors, in the order of the queues
	consumer  consumer.Config
	log       *slog.Logger
	admin     telemetry.AdminConfig // without its handlers
	maxBody   int                   // bytes, of a message over HTTP
	traceLink bool
	database  *database.Database // nil: none
	migrate   bool               // at the start
	statusTTL time.Duration      // zero: no states are kept
}

// loadConfig reads the environment and builds what it asks for, short of connecting
// to anything. Its error names every fault, not only the first. The log goes to
// stderr. The caller closes the config.
func loadConfig(stderr io.Writer) (*config, error) { return readConfig(newEnvironment(), stderr) }

// readConfig does that, and leaves what it has read in env.
func readConfig(env *environment, stderr io.Writer) (*config, error) {
	cfg := &config{consumer: consumer.Config{Nodes: readNodes(env), Worker: worker(), Version: buildVersion()}}

	var daemon daemonSettings
	env.know("the daemon", envPrefix, &daemon)
	env.read(envPrefix, &daemon)
	cfg.consumer.ShutdownTimeout = daemon.ShutdownTimeout
	log, err := telemetry.NewLogger(stderr, daemon.LogLevel, daemon.LogFormat)
	if err != nil {
		env.faultf("%sLOG_FORMAT: %w", envPrefix, err)
		log = slog.New(slog.DiscardHandler)
	}
	cfg.log = log
	cfg.traceLink = daemon.TraceLink
	cfg.admin = telemetry.AdminConfig{Addr: daemon.AdminAddr, Token: daemon.AdminToken, Pprof: daemon.AdminPprof}
	cfg.maxBody = daemon.AdminMaxBody
	if cfg.admin.Addr != "" {
		env.fault(cfg.admin.Validate())
	}

	db := readDatabase(env)
	cfg.migrate, cfg.statusTTL = db.Migrate, db.StatusTTL
	if db.StatusTTL < 0 {
		env.faultf("%sSTATUS_TTL is %v; it must be 0 or more", envPrefix, db.StatusTTL)
	}
	var seen []string
	for _, name := range daemon.Queues {
		switch name = strings.TrimSpace(name); {
		case !isQueueName(name):
			env.faultf("WARREN_QUEUES: queue %q cannot have variables; a name is made of letters, digits, -, . and _", name)
		case slices.Contains(seen, name):
			env.faultf("WARREN_QUEUES names the queue %s twice", name)
		default:
			seen = append(seen, name)
			q, settings := readQueue(env, name, db.URL)
			cfg.consumer.Queues = append(cfg.consumer.Queues, q)
			if settings != nil {
				at := len(cfg.consumer.Queues) - 1
				cfg.open = append(cfg.open, func() error { return openProcessor(settings, &cfg.consumer.Queues[at], db.URL, log) })
			}
		}
	}
	cfg.consumer.Schedules = readSchedules(env, daemon.Schedules)
	if len(cfg.consumer.Queues) > 0 {
		env.fault(cfg.consumer.Validate())
		env.refuseUnknown()
	} else { // no telling which variables of queues are meant
		env.refuseUnknown(envPrefix + "QUEUE_")
	}
	if db.URL != "" {
		cfg.database, err = openDatabase(db, cfg.consumer.Queues, log)
		env.fault(err)
	}
	if err := env.err(); err != nil {
		return nil, errors.Join(err, cfg.Close())
	}
	if cfg.database != nil {
		cfg.consumer.Database = cfg.database
	}
	return cfg, nil
}

// readDatabase reads the variables of the database.
func readDatabase(env *environment) databaseSettings {
	var s databaseSettings
	env.know("the daemon", envPrefix, &s)
	env.read(envPrefix, &s)
	return s
}

// openDatabase makes the pool for the queues, short of connecting.
func openDatabase(s databaseSettings, queues []consumer.Queue, log *slog.Logger) (*database.Database, error) {
	connections := 0
	for _, q := range queues {
		connections += q.Concurrency
	}
	d, err := database.New(database.Config{URL: s.URL, Connections: connections, InboxTTL: s.InboxTTL}, log)
	if err != nil {
		return nil, fmt.Errorf("%sDATABASE_URL %w", envPrefix, err)
	}
	return d, nil
}

// Close closes the processors that can be closed, once none of them works any more,
// and the database.
func (c *config) Close() error {
	var errs []error
	if c.database != nil {
		defer func() { _ = c.database.Close() }() // nothing of it is under way
	}
	for _, q := range c.consumer.Queues {
		if closer, ok := q.Processor.(io.Closer); ok {
			if err := closer.Close(); err != nil {
				errs = append(errs, fmt.Errorf("close the processor of queue %s: %w", q.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Open makes the processors.
func (c *config) Open() error {
	for _, open := range c.open {
		if err := open(); err != nil {
			return err
		}
	}
	return nil
}

func (c *config) queueNames() []string {
	var names []string
	for _, q := range c.consumer.Queues {
		names = append(names, q.Name)
	}
	return names
}

// loadNodes reads only where the broker is.
func loadNodes() ([]string, error) {
	env := newEnvironment()
	nodes := readNodes(env)
	return nodes, env.err()
}

// readNodes returns the URLs of the nodes. Its faults leave out the URLs, which may
// hold a password even where they cannot be parsed.
func readNodes(env *environment) []string {
	var s brokerSettings
	env.know("the daemon", envPrefix, &s)
	env.read(envPrefix, &s)
	nodes := strings.Split(s.AMQPURL, ",")
	for i, node := range nodes {
		nodes[i] = strings.TrimSpace(node)
		if err := checkNode(nodes[i]); err != nil {
			env.faultf("WARREN_AMQP_URL: node %d of %d %w", i+1, len(nodes), err)
		}
	}
	return nodes
}

func checkNode(node string) error {
	u, err := url.Parse(node)
	switch {
	// What follows an unescaped / ? or # is no longer taken for the password.
	case err != nil, strings.Contains(u.EscapedPath()+u.RawQuery+u.Fragment, "@"):
		return errors.New("is not a URL; special characters in user and password are percent-encoded: / is %2F, @ is %40, a comma is %2C")
	case u.Scheme != "amqp" && u.Scheme != "amqps":
		return errors.New("begins with neither amqp:// nor amqps://; a comma in a password is written %2C")
	case u.Hostname() == "":
		return errors.New("names no host, as in amqp://user:password@host:5672/vhost")
	}
	return nil
}

// isQueueName tells whether a queue's variables can be named after it.
func isQueueName(name string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
	return name != "" && strings.Trim(name, allowed) == ""
}

// queuePrefix begins the names of the variables of a queue.
func queuePrefix(name string) string {
	return envPrefix + "QUEUE_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name)) + "_"
}

// unopened stands for a processor that has not been opened.
var unopened = consumer.ProcessorFunc(nil)

// readQueue reads the variables of a queue and of its processor; nil if these have a fault.
func readQueue(env *environment, name, databaseURL string) (consumer.Queue, processors.Config) {
	prefix := queuePrefix(name)
	var s queueSettings
	if !env.know("queue "+name, prefix, &s) {
		return consumer.Queue{Name: name, Processor: unopened}, nil
	}
	env.read(prefix, &s)
	q := consumer.Queue{
		Name:        name,
		Processor:   unopened,
		Concurrency: s.Concurrency,
		Prefetch:    s.Prefetch,
		Timeout:     s.Timeout,
		MaxAttempts: s.MaxAttempts,
		RetryBase:   s.RetryBase,
		RetryMax:    s.RetryMax,
		Type:        s.Type,
		Passive:     !s.Declare,
		MaxPriority: s.MaxPriority,
		Exchange:    s.Exchange,
		RoutingKeys: s.RoutingKeys,
		Rate:        s.Rate,
		EnvPrefix:   prefix,
	}
	return q, readProcessor(env, q, s.Processor, databaseURL)
}

// readProcessor reads the variables of the processor of a queue. It returns nil if they
// have a fault.
func readProcessor(env *environment, q consumer.Queue, processor, databaseURL string) processors.Config {
	owner := "queue " + q.Name
	settings, ok := standard.Lookup(processor)
	if !ok {
		if processor != "" {
			env.faultf("%sPROCESSOR is %q; it must be one of %s", q.EnvPrefix, processor, strings.Join(standard.Names(), ", "))
		}
		for _, name := range standard.Names() { // any may be meant
			settings, _ := standard.Lookup(name)
			env.know(owner, q.EnvPrefix, settings)
		}
		return nil
	}
	if !env.know(owner, q.EnvPrefix, settings) || !env.read(q.EnvPrefix, settings) {
		return nil
	}
	if err := settings.Validate(queueOf(q, databaseURL)); err != nil {
		for fault := range strings.SplitSeq(err.Error(), "\n") {
			env.faultf("queue %s (%s...): %s", q.Name, q.EnvPrefix, fault)
		}
		return nil
	}
	return settings
}

// queueOf is what a processor has to know of q.
func queueOf(q consumer.Queue, databaseURL string) processors.Queue {
	return processors.Queue{Name: q.Name, Concurrency: max(q.Concurrency, 1), DatabaseURL: databaseURL}
}

// openProcessor makes the processor of q.
func openProcessor(settings processors.Config, q *consumer.Queue, databaseURL string, log *slog.Logger) error {
	p, err := settings.Open(queueOf(*q, databaseURL), log)
	if err != nil {
		return fmt.Errorf("queue %s (%s...): %w", q.Name, q.EnvPrefix, err)
	}
	q.Processor = p
	return nil
}

// worker is what Warren calls this process in the messages that it writes to.
func worker() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + " warren/" + buildVersion()
}
