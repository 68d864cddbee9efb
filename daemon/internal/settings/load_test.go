package settings

import (
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors"
)

func TestLoadConfig(t *testing.T) {
	setenv(t,
		"WARREN_AMQP_URL=amqp://u:p%2Cw@one/v, amqps://two:5671", "WARREN_AMQP_ORDER=listed",
		"WARREN_QUEUES=mail.in, Logs",
		"WARREN_SHUTDOWN_TIMEOUT=3s",
		"WARREN_QUEUE_MAIL_IN_PROCESSOR=command",
		"WARREN_QUEUE_MAIL_IN_COMMAND=cat",
		"WARREN_QUEUE_MAIL_IN_CONCURRENCY=3",
		"WARREN_QUEUE_MAIL_IN_PREFETCH=5",
		"WARREN_QUEUE_MAIL_IN_TIMEOUT=1m",
		"WARREN_QUEUE_MAIL_IN_MAX_ATTEMPTS=4",
		"WARREN_QUEUE_MAIL_IN_RETRY_BASE=2s",
		"WARREN_QUEUE_MAIL_IN_RETRY_MAX=8s",
		"WARREN_QUEUE_MAIL_IN_TYPE=classic",
		"WARREN_QUEUE_MAIL_IN_DECLARE=false",
		"WARREN_QUEUE_MAIL_IN_MAX_PRIORITY=9",
		"WARREN_QUEUE_MAIL_IN_EXCHANGE=shop",
		"WARREN_QUEUE_MAIL_IN_ROUTING_KEYS=order.*,mail",
		"WARREN_QUEUE_MAIL_IN_RATE=0.5",
		"WARREN_QUEUE_MAIL_IN_BRAKE=false",
		"WARREN_QUEUE_LOGS_PROCESSOR=log",
		"WARREN_CONTROL_USERS=ops, warren",
	)
	cfg, err := Load(program, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if p := cfg.Processors; len(p) != 2 || p[0].Queue.Name != "mail.in" || p[0].Queue.Concurrency != 3 || p[0].Queue.DatabaseURL != "" {
		t.Errorf("got the processors %+v, want those of both queues", cfg.Processors)
	}
	for i := range cfg.Consumer.Queues {
		cfg.Consumer.Queues[i].Processor = nil
		if q := &cfg.Consumer.Queues[i]; len(q.Settings) != 8 {
			t.Errorf("queue %s has the digest %q, want one", q.Name, q.Settings)
		} else {
			q.Settings = ""
		}
	}
	want := consumer.Config{
		Nodes:           []string{"amqp://u:p%2Cw@one/v", "amqps://two:5671"},
		ShutdownTimeout: 3 * time.Second,
		Program:         program.Name,
		Worker:          program.worker(),
		Version:         "v1.2.3",
		ControlUsers:    []string{"ops", "warren"},
		LogLevel:        new(slog.LevelVar),
		Queues: []consumer.Queue{{
			Name: "mail.in", Concurrency: 3, Prefetch: 5, Timeout: time.Minute, MaxAttempts: 4,
			RetryBase: 2 * time.Second, RetryMax: 8 * time.Second, Type: consumer.Classic, Passive: true, MaxPriority: 9,
			Exchange: "shop", RoutingKeys: []string{"order.*", "mail"}, Rate: 0.5, Unbraked: true, EnvPrefix: "WARREN_QUEUE_MAIL_IN_",
		}, {
			Name: "Logs", Concurrency: 8, Timeout: 5 * time.Minute, MaxAttempts: 20,
			RetryBase: time.Second, RetryMax: time.Hour, Type: consumer.Quorum, EnvPrefix: "WARREN_QUEUE_LOGS_",
		}},
	}
	if !reflect.DeepEqual(cfg.Consumer, want) {
		t.Errorf("got %+v, want %+v", cfg.Consumer, want)
	}
}

// The digest of a queue's variables changes with them, but not with a secret.
func TestDigestOfAQueue(t *testing.T) {
	digest := func(more ...string) string {
		t.Helper()
		setenv(t, append([]string{"WARREN_QUEUES=hooks", "WARREN_QUEUE_HOOKS_PROCESSOR=webhook", "WARREN_QUEUE_HOOKS_URL=https://example.net/"}, more...)...)
		cfg, err := Load(program, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		return cfg.Consumer.Queues[0].Settings
	}
	plain := digest()
	if other := digest("WARREN_QUEUE_HOOKS_TIMEOUT=7s"); other == plain {
		t.Error("another timeout has the same digest")
	}
	one, another := digest("WARREN_QUEUE_HOOKS_SECRET=whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="), digest("WARREN_QUEUE_HOOKS_SECRET=whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=")
	if one != another {
		t.Error("another secret has another digest")
	}
}

func TestEveryFaultIsReportedAtOnce(t *testing.T) {
	setenv(t,
		"WARREN_AMQP_URL=amqp://one,redis://two",
		"WARREN_LOG_LEVEL=loud",
		"WARREN_LOG_FORMAT=xml",
		"WARREN_SHUTDOWN_TIMEOUT=-1s",
		"WARREN_QUEUES=a,b.c,b-c,b.c,d e,f,g,a_type",
		"WARREN_QUEUE_A_PROCESSOR=log",
		"WARREN_QUEUE_A_TIMEOUT=5min",
		"WARREN_QUEUE_A_MAX_ATTEMPT=5",
		"WARREN_QUEUE_A_PREFETCH=2",
		"WARREN_QUEUE_A_TYPE=quick",
		"WARREN_QUEUE_A_TYPE_PROCESSOR=log",
		"WARREN_QUEUE_F_PROCESSOR=mail",
		"WARREN_QUEUE_F_MAILDIR=/tmp/mail",
		"WARREN_QUEUE_G_PROCESSOR=command",
		"WARREN_QUEUE_G_COMMAND=/no/such/program",
		"WARREN_QUEUE_G_MODE=threads",
	)
	cfg, err := Load(program, io.Discard)
	if err == nil {
		t.Fatalf("got %+v, want an error", cfg)
	}
	got := strings.Split(err.Error(), "\n")
	want := []string{
		"the configuration has 15 faults:",
		"  WARREN_AMQP_URL: node 2 of 2 begins with neither amqp:// nor amqps://; a comma in a password is written %2C",
		"  WARREN_SHUTDOWN_TIMEOUT is -1s; it must be more than zero",
		`  WARREN_LOG_LEVEL is "loud"; it must be debug, info, warn or error`,
		`  WARREN_LOG_FORMAT: log format "xml" is unknown; it must be auto, json, text or journal`,
		"  WARREN_QUEUES names the queue b.c twice",
		`  WARREN_QUEUES: queue "d e" cannot have variables; a name is made of letters, digits, -, . and _`,
		`  WARREN_QUEUE_A_TIMEOUT is "5min"; it must be a duration such as 500ms, 90s or 1h30m`,
		"  WARREN_QUEUE_B_C_PROCESSOR must be set: what is done with a delivery: command, email, log, report, sql or webhook",
		"  queue b.c and queue b-c would share the variable WARREN_QUEUE_B_C_PROCESSOR; rename one of them",
		`  WARREN_QUEUE_F_PROCESSOR is "mail"; it must be one of command, email, log, report, sql, webhook`,
		"  queue g (WARREN_QUEUE_G_...): COMMAND: ",
		"  queue g (WARREN_QUEUE_G_...): MODE ",
		"  WARREN_QUEUE_A_PREFETCH is 2; ",
		`  WARREN_QUEUE_A_TYPE is "quick"; `,
		"  WARREN_QUEUE_A_MAX_ATTEMPT is unknown; the nearest known name is WARREN_QUEUE_A_MAX_ATTEMPTS",
	}
	// Of what other packages say, the beginning is enough.
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n%s\nwant lines that begin\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWithoutQueuesOnlyThatIsAFault(t *testing.T) {
	setenv(t, "WARREN_QUEUES=", "WARREN_QUEUE_A_PROCESSOR=log", "WARREN_QUEUE_A_TIMEOUT=1s")
	_, err := Load(program, io.Discard)
	if want := "configuration: WARREN_QUEUES must be set: the queues to work"; err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want %s... and nothing else", err, want)
	}
}

func TestAddressesOfNodes(t *testing.T) {
	const password = "hunter2"
	for _, test := range []struct{ url, fault string }{
		{"amqp://guest:guest@localhost:5672/", ""},
		{"amqp://localhost", ""},
		{"amqps://u:hunter2%2F%40%2C@[::1]:5671/%2F?cacertfile=/etc/ca.pem", ""},
		{"", "begins with neither"},
		{"localhost:5672", "begins with neither"},
		{"http://u:hunter2@h", "begins with neither"},
		{"amqp://u:hunter2,1@h", "is not a URL"},
		{"amqp://u:hunter2/1@h", "is not a URL"},
		{"amqp://u:1/hunter2@h", "is not a URL"},
		{"amqp://u:1?hunter2@h", "is not a URL"},
		{"amqp://u:1#hunter2@h", "is not a URL"},
		{"amqp://u:hunter2%zz@h", "is not a URL"},
		{"amqp://u:hunter2\x7f@h", "is not a URL"},
		{"amqp://u:hunter2@", "names no host"},
		{"amqp://u:hunter2@:5672/", "names no host"},
	} {
		setenv(t, "WARREN_AMQP_URL="+test.url)
		_, err := Nodes()
		switch {
		case test.fault == "" && err != nil:
			t.Errorf("%s: got %v, want no error", test.url, err)
		case test.fault != "" && (err == nil || !strings.Contains(err.Error(), test.fault)):
			t.Errorf("%s: got the error %v, want one with %q", test.url, err, test.fault)
		case err != nil && strings.Contains(err.Error(), password):
			t.Errorf("%s: the error shows the password: %v", test.url, err)
		}
	}
}

// What is not as it is by default is known of each queue, and no secret is in it.
func TestChangedVariables(t *testing.T) {
	setenv(t,
		"WARREN_QUEUES=orders,emails",
		"WARREN_QUEUE_ORDERS_PROCESSOR=webhook",
		"WARREN_QUEUE_ORDERS_URL=https://user:hunter2@shop.example.net/",
		"WARREN_QUEUE_ORDERS_CONCURRENCY=3",
		"WARREN_QUEUE_ORDERS_TIMEOUT=5m", // the usual one
		"WARREN_QUEUE_EMAILS_PROCESSOR=log",
	)
	cfg, err := Load(Program{Name: "warren", Version: "v1", Processors: processors.Standard()}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"WARREN_QUEUE_ORDERS_PROCESSOR=webhook", "WARREN_QUEUE_ORDERS_CONCURRENCY=3", "WARREN_QUEUE_ORDERS_URL=******"}
	if got := cfg.Changed["orders"]; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := cfg.Changed["emails"]; !slices.Equal(got, []string{"WARREN_QUEUE_EMAILS_PROCESSOR=log"}) {
		t.Errorf("got %q", got)
	}
}
