package settings

import (
	"log/slog"
	"strings"
	"time"

	"github.com/warrenmq/warren/processors"
)

// brokerSettings are the variables that every subcommand with a broker needs.
type brokerSettings struct {
	AMQPURL string `envconfig:"AMQP_URL" default:"amqp://guest:guest@localhost:5672/" secret:"true" desc:"The broker, amqps:// for TLS; several nodes of a cluster, comma-separated; special characters percent-encoded."`
	Order   string `envconfig:"AMQP_ORDER" default:"random" desc:"Which of several nodes a daemon prefers: random, so that many daemons spread over all of them, or listed: the first."`
	User    string `envconfig:"AMQP_USER" desc:"The name by which the broker knows this process, where a certificate stands for it; not set, that of the URL. What Warren writes into headers is believed by it."`
}

// operatorSettings are the variables of what is asked for at a terminal.
type operatorSettings struct {
	TraceURL string `envconfig:"TRACE_URL" desc:"Where a trace can be seen, {trace} standing for its id: https://jaeger.example.net/trace/{trace}. The subcommand dead show prints it."`
	// ManagementURL is for the subcommand check alone.
	ManagementURL string `envconfig:"MANAGEMENT_URL" secret:"true" desc:"The HTTP API of RabbitMQ's management plugin, such as http://monitor:password@mq1:15672, with a user that has the tag monitoring: check then also tells policies, replicas and alarms. Nothing needs it."`
}

// daemonSettings are the variables of the daemon as a whole.
type daemonSettings struct {
	Queues          []string      `envconfig:"QUEUES" required:"true" desc:"The queues to work, comma-separated; the variables of each are named after it, in upper case and with - and . as _."`
	Schedules       []string      `envconfig:"SCHEDULES" desc:"Schedules that publish messages at planned times, comma-separated; the variables of each are named as a queue's are."`
	ControlUsers    []string      `envconfig:"CONTROL_USERS" desc:"The broker's users, comma-separated, who may pause queues and steer the daemons (docs/fleet.md); not set, the daemon's own."`
	ShutdownTimeout time.Duration `envconfig:"SHUTDOWN_TIMEOUT" default:"25s" positive:"true" desc:"How long work may go on after SIGTERM or SIGINT; what is not finished then goes back to its queue."`
	LogLevel        slog.Level    `envconfig:"LOG_LEVEL" default:"info" desc:"The least that is logged: debug, info, warn or error."`
	LogFormat       string        `envconfig:"LOG_FORMAT" default:"auto" desc:"json, text, journal (systemd's, with fields), or auto: the journal under systemd, text on a terminal, else json."`
	AdminAddr       string        `envconfig:"ADMIN_ADDR" default:"127.0.0.1:9466" desc:"Where /metrics, /healthz, /readyz and the API of docs/http.md are served; empty: nowhere. Another one for each daemon on a machine."`
	AdminToken      string        `envconfig:"ADMIN_TOKEN" secret:"true" desc:"The bearer token that permits everything there, at least 16 characters; without it and those below, the address must be a loopback one, and the API is closed."`
	AdminMetrics    string        `envconfig:"ADMIN_METRICS_TOKEN" secret:"true" desc:"A token that permits only /metrics, /healthz and /readyz."`
	AdminPublish    string        `envconfig:"ADMIN_PUBLISH_TOKEN" secret:"true" desc:"A token that permits only publishing messages."`
	AdminState      string        `envconfig:"ADMIN_STATE_TOKEN" secret:"true" desc:"A token that permits only reading the states of messages and their results."`
	AdminHosts      []string      `envconfig:"ADMIN_HOSTS" desc:"Further names, comma-separated, by which requests may call this server, such as that of a proxy in front of it."`
	AdminBasePath   string        `envconfig:"ADMIN_BASE_PATH" desc:"The path under which a proxy has this server, such as /warren; not set, none."`
	UIView          string        `envconfig:"UI_VIEW_TOKEN" secret:"true" desc:"Who signs in with it sees the page of docs/page.md, under /ui/ of the same address; at least 16 characters. Without any of these three there is no page."`
	UIOperate       string        `envconfig:"UI_OPERATE_TOKEN" secret:"true" desc:"Who signs in with it may also pause queues, cancel attempts and replay dead letters."`
	UIAdmin         string        `envconfig:"UI_ADMIN_TOKEN" secret:"true" desc:"Who signs in with it may also edit dead letters, and discard them."`
	AdminMaxBody    int           `envconfig:"ADMIN_MAX_BODY_BYTES" default:"1048576" positive:"true" desc:"The longest body that the API takes for a message."`
	AdminPprof      bool          `envconfig:"ADMIN_PPROF" default:"false" desc:"Whether /debug/pprof/ is served there, too."`
	TraceLink       bool          `envconfig:"TRACE_LINK" default:"false" desc:"Whether a message begins a trace of its own, linked to its publisher's, rather than continuing that. The OTEL_ variables say where traces go."`
}

// databaseSettings are the variables of the database, and what is kept there.
type databaseSettings struct {
	URL       string        `envconfig:"DATABASE_URL" secret:"true" desc:"postgres://user:password@host:5432/name or sqlite:/path/of/the/file: for transactions, the inbox and the outbox; not set, there are none."`
	Migrate   bool          `envconfig:"MIGRATE" default:"false" desc:"Whether to create or update Warren's own tables there at the start, as the subcommand migrate does."`
	InboxTTL  time.Duration `envconfig:"INBOX_TTL" default:"168h" positive:"true" desc:"How long a message that was worked is recognised by its message-id."`
	StatusTTL time.Duration `envconfig:"STATUS_TTL" default:"168h" desc:"How long the states of messages are kept there, for the HTTP API; 0: none are."`
}

// queueSettings are the variables of each queue, whatever its processor.
type queueSettings struct {
	processors []string // their names, for whoever asks what Processor may be

	Processor   string        `envconfig:"PROCESSOR" required:"true" desc:"What is done with a delivery: {processors}."`
	Concurrency int           `envconfig:"CONCURRENCY" default:"8" positive:"true" desc:"How many deliveries are worked on at once."`
	Prefetch    int           `envconfig:"PREFETCH" desc:"How many deliveries the broker hands out at once; not set, what keeps 0.1 s of work at hand, from twice the concurrency to 250."`
	Timeout     time.Duration `envconfig:"TIMEOUT" default:"5m" positive:"true" desc:"How long one attempt may take."`
	MaxAttempts int           `envconfig:"MAX_ATTEMPTS" default:"20" positive:"true" desc:"How often a message is tried before it goes to the dead-letter queue; 1 means no retry. 20 outlast an outage of eight hours."`
	RetryBase   time.Duration `envconfig:"RETRY_BASE" default:"1s" positive:"true" desc:"The wait after the first failed attempt; each further one is twice as long."`
	RetryMax    time.Duration `envconfig:"RETRY_MAX" default:"1h" positive:"true" desc:"The longest wait between two attempts."`
	Type        string        `envconfig:"TYPE" default:"quorum" desc:"The type of queue that is declared: quorum or classic."`
	Declare     bool          `envconfig:"DECLARE" default:"true" desc:"Whether to declare the queues; false: they must be there as the documentation lists them."`
	MaxPriority int           `envconfig:"MAX_PRIORITY" desc:"The highest message priority of a classic queue; not set, it has none."`
	Exchange    string        `envconfig:"EXCHANGE" desc:"An existing exchange to bind the queue to."`
	RoutingKeys []string      `envconfig:"ROUTING_KEYS" desc:"The routing keys of these bindings, comma-separated; not set, one binding with the empty key."`
	MaxBody     int           `envconfig:"MAX_BODY_BYTES" desc:"The longest body that is worked; a longer one goes to the dead-letter queue. Not set, any length."`
	ReplyTo     []string      `envconfig:"REPLY_TO" desc:"The queues that results may be published to, comma-separated, * for any characters; not set, all but worked ones and those ending in .dead."`
	Brake       bool          `envconfig:"BRAKE" default:"true" desc:"Whether messages stay in the queue, but for one every 4 s, while what the processor depends on looks down."`
	Rate        float64       `envconfig:"RATE" desc:"How many deliveries may be started a second, 0.5 being one in two seconds; not set, any number."`
}

func newQueueSettings(set processors.Set) *queueSettings {
	return &queueSettings{processors: set.Names()}
}

// explain returns the help of a variable with the names of the processors in it.
func (s *queueSettings) explain(help string) string {
	return strings.ReplaceAll(help, "{processors}", oneOf(s.processors))
}

// oneOf lists the names: a, b or c.
func oneOf(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
