// Demo shows Warren at work on real messages: `make demo` runs it. It starts a
// private RabbitMQ node in the folder demo, unless WARREN_AMQP_URL names a broker,
// has the daemon work five queues, publishes to them, shows what became of each
// message, and stops the daemon. With -keep (`make demo KEEP=1`) it leaves the page up before,
// with more to look at, until Ctrl-C.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

//go:embed files
var files embed.FS

// dir is where everything of the demo is, below the project's folder.
const dir = "demo"

// queues are those of the demo, its dead-letter queues included.
var queues = []string{
	"emails", "commands", "log", "chores", "reports", "answers",
	"emails.dead", "commands.dead", "log.dead", "chores.dead", "reports.dead",
}

func main() {
	stay := flag.Bool("keep", false, "leave the page up until Ctrl-C")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *stay); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, stay bool) (err error) {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	root, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := unpack(root); err != nil {
		return err
	}

	step("Building the daemon")
	warren := filepath.Join(root, "warren")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", warren, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}

	url := os.Getenv("WARREN_AMQP_URL")
	if url == "" {
		step("Starting a private RabbitMQ node in %s/node (a few seconds)", dir)
		node, err := rabbittest.Start(ctx, rabbittest.Options{Dir: filepath.Join(root, "node")})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, node.Stop()) }()
		url = node.URL("/")
	}
	b, err := openBroker(url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()

	d := &daemon{path: warren, root: root, env: environment(url, root)}
	if stay {
		d.env = append(d.env, more...)
	}
	step("Starting the daemon; its log goes to %s/warren.log", dir)
	fmt.Println(indent(strings.Join(d.env[1:], "\n")))
	if err := d.start(ctx); err != nil {
		return err
	}
	defer d.kill() // if it runs still
	if err := scenes(ctx, b, d); err != nil {
		return fmt.Errorf("%w\nthe daemon's log is in %s/warren.log", err, dir)
	}

	if stay {
		if err := keep(ctx, b, d); err != nil {
			return fmt.Errorf("%w\nthe daemon's log is in %s/warren.log", err, dir)
		}
		return nil // what hangs would take its time to stop
	}
	step("Stopping the daemon with SIGTERM")
	if err := d.stop(); err != nil {
		return err
	}
	fmt.Println(indent(d.lastLine()))
	fmt.Print(`
Shown: a templated e-mail, delivered to a Maildir; a shell script and a Python script
as handlers, the second with an answer to its publisher; a delayed message; a message
that failed twice, waited in the broker for 1 s and 2 s, and then succeeded; one that
cannot succeed, kept as a dead letter with its reason; a report from a database, asked
for over HTTP and followed to the file; and an orderly stop. What ran is in the folder
demo: its configuration, templates, handlers, statements, reports and the daemon's log.
`)
	return nil
}

// environment is all that the daemon is told.
func environment(url, root string) []string {
	return []string{
		"WARREN_AMQP_URL=" + url,
		"WARREN_QUEUES=emails,commands,log,chores,reports",
		"WARREN_QUEUE_EMAILS_PROCESSOR=email",
		"WARREN_QUEUE_EMAILS_FROM=Shop <shop@example.com>",
		"WARREN_QUEUE_EMAILS_TEMPLATES=" + filepath.Join(root, "templates"),
		"WARREN_QUEUE_EMAILS_MAILDIR=" + filepath.Join(root, "mail"),
		"WARREN_QUEUE_COMMANDS_PROCESSOR=command",
		"WARREN_QUEUE_COMMANDS_COMMAND='" + filepath.Join(root, "handlers", "handle") + "'",
		"WARREN_QUEUE_LOG_PROCESSOR=log",
		"WARREN_QUEUE_CHORES_PROCESSOR=sql",
		"WARREN_QUEUE_CHORES_STATEMENTS=" + filepath.Join(root, "statements"),
		"WARREN_QUEUE_REPORTS_PROCESSOR=report",
		"WARREN_QUEUE_REPORTS_REPORTS=" + filepath.Join(root, "reports"),
		"WARREN_QUEUE_REPORTS_OUTPUT=" + filepath.Join(root, "made"),
		"WARREN_DATABASE_URL=sqlite:" + filepath.Join(root, "warren.db"),
		"WARREN_MIGRATE=true",
		"WARREN_LOG_FORMAT=text",
		"WARREN_ADMIN_ADDR=127.0.0.1:0", // any port that is free
		"WARREN_ADMIN_TOKEN=" + adminToken,
	}
}

// unpack writes the demo's templates and handlers to root.
func unpack(root string) error {
	return fs.WalkDir(files, "files", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(root, strings.TrimPrefix(path, "files"))
		if e.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		content, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o755)
	})
}

func step(format string, args ...any) { fmt.Printf("\n== "+format+"\n", args...) }

func indent(text string) string {
	return "   " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n   ")
}

// A daemon is warren as a process of its own.
type daemon struct {
	path, root string
	env        []string
	cmd        *exec.Cmd
	ended      chan error
}

func (d *daemon) logPath() string { return filepath.Join(d.root, "warren.log") }

func (d *daemon) start(ctx context.Context) error {
	log, err := os.Create(d.logPath())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own
	d.cmd = exec.Command(d.path)
	d.cmd.Env, d.cmd.Stderr = d.env, log
	if err := d.cmd.Start(); err != nil {
		return err
	}
	d.ended = make(chan error, 1)
	go func() { d.ended <- d.cmd.Wait() }()
	return until(ctx, "the daemon consumes its queues", func() (bool, error) {
		select {
		case err := <-d.ended:
			return false, fmt.Errorf("the daemon has ended (%w):\n%s", err, d.log())
		default:
			return strings.Count(d.log(), "msg=consuming") == 5, nil
		}
	})
}

func (d *daemon) log() string {
	content, _ := os.ReadFile(d.logPath()) // there is nothing to see in one that cannot be read
	return string(content)
}

// lines are those of the log that have text in them.
func (d *daemon) lines(text string) string {
	var out []string
	for line := range strings.Lines(d.log()) {
		if strings.Contains(line, text) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, "\n")
}

func (d *daemon) lastLine() string {
	lines := strings.Split(strings.TrimSpace(d.log()), "\n")
	return lines[len(lines)-1]
}

// stop ends the daemon as systemd does.
func (d *daemon) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-d.ended:
		return err
	case <-time.After(30 * time.Second):
		return errors.New("the daemon has not ended within 30 s")
	}
}

func (d *daemon) kill() { _ = d.cmd.Process.Kill() }

// publish publishes as an operator would, with warren itself.
func (d *daemon) publish(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, d.path, append([]string{"publish"}, args...)...)
	cmd.Env = d.env
	fmt.Println("   $ warren publish " + strings.Join(quoted(args), " "))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("warren publish: %w\n%s", err, out)
	}
	return nil
}

func quoted(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		if out[i] = a; strings.ContainsAny(a, " {}\"'") {
			out[i] = "'" + a + "'"
		}
	}
	return out
}

// until waits for as long as 30 s for done to hold.
func until(ctx context.Context, what string, done func() (bool, error)) error {
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("30 s have passed, but not yet: %s", what)
}

// A broker is what the demo itself needs of RabbitMQ.
type broker struct {
	conn *amqp.Connection
	ch   *amqp.Channel
}

// openBroker refuses a broker that has one of the demo's queues: its messages would
// not be the demo's.
func openBroker(url string) (*broker, error) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return nil, fmt.Errorf("connect to the broker of WARREN_AMQP_URL: %w", err)
	}
	for _, q := range queues {
		ch, err := conn.Channel()
		if err != nil {
			return nil, err
		}
		if _, err := ch.QueueDeclarePassive(q, true, false, false, false, nil); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("the broker of WARREN_AMQP_URL has a queue %s already; unset the variable for a private node, or name another vhost", q)
		}
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	_, err = ch.QueueDeclare("answers", true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	return &broker{conn, ch}, err
}

// take waits for a message of the queue and takes it.
func (b *broker) take(ctx context.Context, queue string) (d amqp.Delivery, err error) {
	err = until(ctx, "a message in "+queue, func() (ok bool, err error) {
		d, ok, err = b.ch.Get(queue, true)
		return ok, err
	})
	return d, err
}

// close deletes what the demo has made.
func (b *broker) close() error {
	for _, q := range queues {
		if _, err := b.ch.QueueDelete(q, false, false, false); err != nil {
			return fmt.Errorf("delete queue %s: %w", q, err)
		}
	}
	return b.conn.Close()
}
