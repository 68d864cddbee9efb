// Package settings reads the variables that configure the daemon, says everything that
// is wrong with them at once, and describes them: as they are, as an example, and for the
// manual.
package settings

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
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

// A Program is whose variables they are.
type Program struct {
	Name, Version string
	Processors    processors.Set
}

// worker is what the program calls itself in the messages that it writes to.
func (p Program) worker() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + " " + p.Name + "/" + p.Version
}

// A Config is all that the daemon is started with. Nothing changes it, and nothing in it
// is open.
type Config struct {
	// Consumer is without the processors, the database, and what observes it.
	Consumer   consumer.Config
	Processors []Processor // of the queues, in their order
	Log        *slog.Logger
	Admin      telemetry.AdminConfig // without its handlers
	MaxBody    int                   // bytes, of a message over HTTP
	// Changed are the variables of each queue that are not as they are by default, with
	// their values, but for those of secrets.
	Changed   map[string][]string
	TraceLink bool
	TraceURL  string          // {trace} standing for the id of one; empty: not known
	Database  database.Config // URL is empty: none
	Migrate   bool            // at the start
	StatusTTL time.Duration   // zero: no states are kept
}

// A Processor is the processor of a queue, validated.
type Processor struct {
	Queue     processors.Queue
	EnvPrefix string // of the names of its variables
	config    processors.Config
}

// Open makes the processor.
func (p Processor) Open(log *slog.Logger) (consumer.Processor, error) {
	opened, err := p.config.Open(p.Queue, log)
	if err != nil {
		return nil, fmt.Errorf("queue %s (%s...): %w", p.Queue.Name, p.EnvPrefix, err)
	}
	return opened, nil
}

// Check looks whether what the processor depends on is there. ok is false if it cannot
// look.
func (p Processor) Check(ctx context.Context) (found string, ok bool, err error) {
	c, ok := p.config.(processors.Checker)
	if !ok {
		return "", false, nil
	}
	found, err = c.Check(ctx, p.Queue)
	return found, true, err
}

// QueueNames are the names of the queues.
func (c *Config) QueueNames() []string {
	names := make([]string, len(c.Consumer.Queues))
	for i, q := range c.Consumer.Queues {
		names[i] = q.Name
	}
	return names
}

// Load reads the environment and validates what it asks for. It changes nothing and
// connects to nothing. Its error names every fault, not only the first. The log goes to
// stderr.
func Load(p Program, stderr io.Writer) (*Config, error) { return load(newReader(), p, stderr) }

// load does that, and leaves what it has read in r.
func load(r *reader, p Program, stderr io.Writer) (*Config, error) {
	nodes, user := readNodes(r)
	cfg := &Config{Consumer: consumer.Config{Nodes: nodes, User: user, Program: p.Name, Worker: p.worker(), Version: p.Version}}

	var daemon daemonSettings
	r.know("the daemon", prefix, &daemon)
	r.read(prefix, &daemon)
	cfg.Consumer.ShutdownTimeout = daemon.ShutdownTimeout
	for _, user := range daemon.ControlUsers {
		if user = strings.TrimSpace(user); user != "" {
			cfg.Consumer.ControlUsers = append(cfg.Consumer.ControlUsers, user)
		}
	}
	var err error
	cfg.Consumer.LogLevel = new(slog.LevelVar)
	cfg.Consumer.LogLevel.Set(daemon.LogLevel)
	if cfg.Log, err = telemetry.NewLogger(stderr, cfg.Consumer.LogLevel, daemon.LogFormat); err != nil {
		r.faultf("%sLOG_FORMAT: %w", prefix, err)
	}
	cfg.TraceLink = daemon.TraceLink
	cfg.Admin = telemetry.AdminConfig{Addr: daemon.AdminAddr, Pprof: daemon.AdminPprof, Tokens: telemetry.Tokens{
		All: daemon.AdminToken, Metrics: daemon.AdminMetrics, Publish: daemon.AdminPublish, State: daemon.AdminState,
		View: daemon.UIView, Operate: daemon.UIOperate, Admin: daemon.UIAdmin,
	}, BasePath: strings.TrimSuffix(daemon.AdminBasePath, "/")}
	for _, host := range daemon.AdminHosts {
		if host = strings.ToLower(strings.TrimSpace(host)); host != "" {
			cfg.Admin.Hosts = append(cfg.Admin.Hosts, host)
		}
	}
	cfg.MaxBody = daemon.AdminMaxBody
	if cfg.Admin.Addr != "" {
		r.fault(cfg.Admin.Validate())
	}

	cfg.TraceURL = readOperator(r).TraceURL
	db := readDatabase(r)
	cfg.Migrate, cfg.StatusTTL = db.Migrate, db.StatusTTL
	if db.StatusTTL < 0 {
		r.faultf("%sSTATUS_TTL is %v; it must be 0 or more", prefix, db.StatusTTL)
	}
	for _, name := range readNames(r, "queue", daemon.Queues) {
		cfg.readQueue(r, name, p.Processors, db.URL)
	}
	cfg.Changed = make(map[string][]string)
	for _, q := range cfg.Consumer.Queues {
		cfg.Changed[q.Name] = r.changed("queue " + q.Name)
	}
	for _, name := range readNames(r, "schedule", daemon.Schedules) {
		if s, ok := readSchedule(r, name); ok {
			cfg.Consumer.Schedules = append(cfg.Consumer.Schedules, s)
		}
	}
	if len(cfg.Consumer.Queues) > 0 {
		r.fault(cfg.Consumer.Validate())
		r.refuseUnknown()
	} else { // no telling which variables of queues are meant
		r.refuseUnknown(prefix + "QUEUE_")
	}
	if db.URL != "" {
		cfg.Database = database.Config{URL: db.URL, InboxTTL: db.InboxTTL}
		for _, q := range cfg.Consumer.Queues {
			cfg.Database.Connections += q.Concurrency
		}
		r.fault(checkDatabase(cfg.Database))
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// Nodes reads only where the broker is.
func Nodes() ([]string, error) {
	r := newReader()
	nodes, _ := readNodes(r)
	return nodes, r.err()
}

// Broker reads only where the broker is, and by which name it knows who asks; empty if
// that is the URL's.
func Broker() (nodes []string, user string, err error) {
	r := newReader()
	nodes, user = readNodes(r)
	return nodes, user, r.err()
}

// TraceURL reads only where traces can be seen, {trace} standing for the id of one; empty:
// that is not known.
func TraceURL() (string, error) {
	r := newReader()
	s := readOperator(r).TraceURL
	return s, r.err()
}

func readOperator(r *reader) operatorSettings {
	var s operatorSettings
	r.know("the daemon", prefix, &s)
	r.read(prefix, &s)
	if s.TraceURL != "" && !strings.Contains(s.TraceURL, "{trace}") {
		r.faultf("%sTRACE_URL is %q; it must have {trace} where the id of a trace belongs, as in https://jaeger.example.net/trace/{trace}", prefix, s.TraceURL)
	}
	if s.ManagementURL != "" {
		if u, err := url.Parse(s.ManagementURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" { // whose text may have the password
			r.faultf("%sMANAGEMENT_URL is no URL of an HTTP API; it must be http:// or https://, with user:password@host:port, special characters percent-encoded", prefix)
		}
	}
	return s
}

// ManagementURL reads only where the management plugin answers; empty: nowhere.
func ManagementURL() (string, error) {
	r := newReader()
	s := readOperator(r).ManagementURL
	return s, r.err()
}

// NodesFrom says where they are read from.
func NodesFrom() string {
	var s brokerSettings
	_, origin, err := variables(prefix, &s)[0].lookup()
	if err != nil {
		return ""
	}
	return origin
}

// QueueNames reads only which queues are worked; none if that is not set.
func QueueNames() []string {
	var s daemonSettings
	newReader().read(prefix, &s) // what is wrong with other variables is not of interest
	var names []string
	for _, name := range s.Queues {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Database reads only where the database is. It must be set.
func Database() (database.Config, error) {
	r := newReader()
	s := readDatabase(r)
	cfg := database.Config{URL: s.URL, InboxTTL: s.InboxTTL}
	if s.URL == "" {
		r.faultf("%sDATABASE_URL is not set; there is nothing to migrate without a database", prefix)
	} else {
		r.fault(checkDatabase(cfg))
	}
	return cfg, r.err()
}

// DatabaseURL reads only where the database is, if there is one.
func DatabaseURL() (string, error) {
	r := newReader()
	url := readDatabase(r).URL
	return url, r.err()
}

func readDatabase(r *reader) databaseSettings {
	var s databaseSettings
	r.know("the daemon", prefix, &s)
	r.read(prefix, &s)
	return s
}

// checkDatabase returns the fault of a database's URL.
func checkDatabase(cfg database.Config) error {
	d, err := database.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return fmt.Errorf("%sDATABASE_URL %w", prefix, err)
	}
	return d.Close() // it has never been connected
}

// readNodes returns the URLs of the nodes, the preferred one first. Its faults leave out the URLs, which may
// hold a password even where they cannot be parsed.
func readNodes(r *reader) (nodes []string, user string) {
	var s brokerSettings
	r.know("the daemon", prefix, &s)
	r.read(prefix, &s)
	nodes = strings.Split(s.AMQPURL, ",")
	for i, node := range nodes {
		nodes[i] = strings.TrimSpace(node)
		if err := checkNode(nodes[i]); err != nil {
			r.faultf(prefix+"AMQP_URL: node %d of %d %w", i+1, len(nodes), err)
		}
	}
	switch s.Order {
	case "listed":
	case "random":
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	default:
		r.faultf("%sAMQP_ORDER is %q; it must be random or listed", prefix, s.Order)
	}
	return nodes, s.User
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

// readNames returns the names of queues or schedules that can have variables.
func readNames(r *reader, kind string, list []string) []string {
	var names []string
	variable := prefix + strings.ToUpper(kind) + "S"
	for _, name := range list {
		switch name = strings.TrimSpace(name); {
		case !isEnvName(name):
			r.faultf("%s: %s %q cannot have variables; a name is made of letters, digits, -, . and _", variable, kind, name)
		case slices.Contains(names, name):
			r.faultf("%s names the %s %s twice", variable, kind, name)
		default:
			names = append(names, name)
		}
	}
	return names
}

// isEnvName tells whether variables can be named after it.
func isEnvName(name string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
	return name != "" && strings.Trim(name, allowed) == ""
}

// envPrefix begins the names of the variables of a queue or schedule.
func envPrefix(kind, name string) string {
	return prefix + strings.ToUpper(kind+"_"+strings.NewReplacer("-", "_", ".", "_").Replace(name)) + "_"
}

// unopened stands for a processor that has not been opened.
var unopened = consumer.ProcessorFunc(nil)

// readQueue reads the variables of a queue and of its processor.
func (c *Config) readQueue(r *reader, name string, set processors.Set, databaseURL string) {
	owner, prefix := "queue "+name, envPrefix("queue", name)
	s := newQueueSettings(set)
	if !r.know(owner, prefix, s) {
		c.Consumer.Queues = append(c.Consumer.Queues, consumer.Queue{Name: name, Processor: unopened})
		return
	}
	r.read(prefix, s)
	q := consumer.Queue{
		Name:        name,
		Processor:   unopened,
		Concurrency: s.Concurrency,
		Prefetch:    s.Prefetch,
		Timeout:     s.Timeout,
		MaxAttempts: s.MaxAttempts,
		Unbraked:    !s.Brake,
		RetryBase:   s.RetryBase,
		RetryMax:    s.RetryMax,
		Type:        s.Type,
		Passive:     !s.Declare,
		MaxPriority: s.MaxPriority,
		Exchange:    s.Exchange,
		RoutingKeys: s.RoutingKeys,
		Rate:        s.Rate,

		MaxBodyBytes: s.MaxBody,
		ReplyTo:      s.ReplyTo,
		EnvPrefix:    prefix,
	}
	c.Consumer.Queues = append(c.Consumer.Queues, q)

	config, ok := set.Lookup(s.Processor)
	if !ok {
		if s.Processor != "" {
			r.faultf("%sPROCESSOR is %q; it must be one of %s", prefix, s.Processor, strings.Join(set.Names(), ", "))
		}
		for _, name := range set.Names() { // any may be meant
			config, _ := set.Lookup(name)
			r.know(owner, prefix, config)
		}
		return
	}
	if !r.know(owner, prefix, config) || !r.read(prefix, config) {
		return
	}
	c.Consumer.Queues[len(c.Consumer.Queues)-1].Settings = r.digest(owner)
	processor := Processor{processors.Queue{
		Name: name, Concurrency: max(s.Concurrency, 1), DatabaseURL: databaseURL, ReadDatabaseURL: DatabaseURL,
	}, prefix, config}
	if err := config.Validate(processor.Queue); err != nil {
		for _, fault := range each(err) {
			r.faultf("queue %s (%s...): %w", name, prefix, fault)
		}
		return
	}
	c.Processors = append(c.Processors, processor)
}
