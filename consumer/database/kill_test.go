package database

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// killPoints are the steps of a worker and of the relay, between delivery and
// acknowledgement, between commit and the deletion from the outbox. The process
// kills itself there.
var killPoints = []string{
	"before the inbox is asked",
	"after the inbox was asked",
	"before the transaction",
	"in the transaction",
	"after the statements",
	"before the commit",
	"after the commit",
	"before the acknowledgement",
	"at any time",
	"before a batch is published",
	"while a batch is published",
	"after a batch was published",
}

// asWorker is the variable that has the test binary be a worker, which works until
// it is killed.
const asWorker = "BE_WORKER"

func init() {
	if os.Getenv(asWorker) != "" {
		if err := beWorker(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}

// A killer kills the process at its point, the n-th time that it gets there.
type killer struct {
	point   string
	left    atomic.Int64
	anyTime sync.Once
}

func (k *killer) at(point string) {
	if k.point == point && k.left.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// A killingDatabase is a Database with kill points.
type killingDatabase struct {
	*Database
	*killer
}

func (k killingDatabase) Done(ctx context.Context, key consumer.InboxKey) (consumer.Result, bool, error) {
	k.at("before the inbox is asked")
	k.anyTime.Do(func() { time.AfterFunc(rand.N(150*time.Millisecond), func() { k.at("at any time") }) })
	r, done, err := k.Database.Done(ctx, key)
	k.at("after the inbox was asked")
	return r, done, err
}

func (k killingDatabase) Begin(ctx context.Context, key *consumer.InboxKey) (consumer.Transaction, error) {
	tx, err := k.Database.Begin(ctx, key)
	k.at("in the transaction")
	return killingTransaction{tx, k.killer}, err
}

type killingTransaction struct {
	consumer.Transaction
	*killer
}

func (k killingTransaction) Commit(ctx context.Context, r *consumer.Result) error {
	k.at("before the commit")
	err := k.Transaction.Commit(ctx, r)
	k.at("after the commit")
	return err
}

func (k killingTransaction) Rollback(ctx context.Context) error {
	err := k.Transaction.Rollback(ctx)
	k.at("before the acknowledgement")
	return err
}

func (k killingDatabase) Run(ctx context.Context, progress func(), publish func([]consumer.Message) []error) {
	k.Database.Run(ctx, progress, func(batch []consumer.Message) []error {
		k.at("before a batch is published")
		if k.point == "while a batch is published" {
			time.AfterFunc(rand.N(3*time.Millisecond), func() { k.at("while a batch is published") })
		}
		errs := publish(batch)
		k.at("after a batch was published")
		return errs
	})
}

func beWorker() error {
	db, err := New(Config{URL: os.Getenv("DATABASE"), Connections: 16}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	k := &killer{point: os.Getenv(asWorker)}
	n, err := strconv.ParseInt(os.Getenv("TIMES"), 10, 64)
	if err != nil {
		return err
	}
	k.left.Store(n)
	if k.point == "at any time" {
		k.left.Store(1)
	}
	p := consumer.ProcessorFunc(func(ctx context.Context, d consumer.Delivery, scope *consumer.Scope) error {
		k.at("before the transaction")
		if err := insert(ctx, d, scope); err != nil {
			return err
		}
		if err := scope.Publish(ctx, consumer.Message{RoutingKey: "out", MessageID: d.MessageID}); err != nil {
			return err
		}
		k.at("after the statements")
		return nil
	})
	c, err := consumer.New(consumer.Config{
		Nodes: []string{os.Getenv("BROKER")}, Database: killingDatabase{db, k}, Outbox: killingDatabase{db, k},
		Queues: []consumer.Queue{{Name: "work", Processor: p, Concurrency: 16, Prefetch: 32}},
	}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	return c.Run(context.Background())
}

// A worker that is killed at every step works each of 2,000 messages or more exactly once,
// and publishes each that it commits at least once, and not before the commit. What
// another program writes to the outbox meanwhile arrives in its order.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		messages := 2000
		v := rabbittest.NewVhost(t)
		d := migrated(t, url)
		v.Declare(t, "out", nil)
		v.Declare(t, "sequence", nil)
		v.Declare(t, "work", workQueue)
		published := watch(t, v, d)
		v.PublishN(t, "work", messages, func(i int) amqp.Publishing { return message(fmt.Sprint(i), "") })

		finished := func() bool {
			return d.number(t, "SELECT count(*) FROM rows") >= messages && v.Ready(t, "work")+v.Unacked(t, "work") == 0 && d.pending(t) == 0
		}
		kills := make(map[string]int)
		missing := func() bool {
			return slices.ContainsFunc(killPoints, func(point string) bool { return kills[point] == 0 })
		}
		sequence := 0
		var log logBuffer
		for run := 0; !finished() || missing(); run++ {
			if finished() { // too early, on a busy machine
				v.PublishN(t, "work", 200, func(i int) amqp.Publishing { return message(fmt.Sprint(messages+i), "") })
				messages += 200
			}
			point := killPoints[run%len(killPoints)]
			worker := startWorker(t, point, url, v.URL, &log)
			for worker.running() && !finished() {
				for range 10 {
					d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, body) VALUES ('sequence', $1)", strconv.Itoa(sequence))
					sequence++
				}
			}
			if !worker.running() {
				kills[point]++
			}
			worker.kill()
		}
		t.Logf("killed: %v", kills)
		if n, distinct := d.number(t, "SELECT count(*) FROM rows"), d.number(t, "SELECT count(DISTINCT id) FROM rows"); n != messages || distinct != messages {
			t.Errorf("got %d rows of %d messages, want exactly %d", n, distinct, messages)
		}
		if n := v.Ready(t, "work.dead"); n > 0 {
			t.Errorf("got %d dead letters, want none", n)
		}
		rabbittest.Eventually(t, 10*time.Second, func() bool { return published() == messages }, "all that was committed is published")
		inOrder(t, v.Drain(t, "sequence"), strconv.Itoa, sequence)
		if t.Failed() {
			t.Logf("the end of the log:\n%s", log.String()[max(0, len(log.String())-3000):])
		}
	})
}

// watch takes what comes to the queue out, and fails the test if it is not committed.
// It returns how many different messages have come.
func watch(t *testing.T, v *rabbittest.Vhost, d *Database) (count func() int) {
	ended := make(chan struct{})
	t.Cleanup(func() { <-ended }) // after the channel is closed
	deliveries, err := v.Channel(t).Consume("out", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := make(map[string]bool)
	go func() {
		defer close(ended)
		for m := range deliveries {
			var there int
			if err := d.read.QueryRow("SELECT count(*) FROM rows WHERE id = $1", m.MessageId).Scan(&there); err != nil || there == 0 {
				t.Errorf("message %s is published, but there is no row of it (%v)", m.MessageId, err)
			}
			mu.Lock()
			seen[m.MessageId] = true
			mu.Unlock()
		}
	}()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
}

// A workerProcess is this test binary as a worker that kills itself.
type workerProcess struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func startWorker(t *testing.T, point, database, broker string, log *logBuffer) *workerProcess {
	t.Helper()
	times := 1 + rand.IntN(50)
	if strings.Contains(point, "batch") {
		times = 1 + rand.IntN(4) // each of many messages
	}
	w := &workerProcess{exec.CommandContext(t.Context(), os.Args[0]), make(chan struct{})}
	w.cmd.Env = append(os.Environ(), asWorker+"="+point, "TIMES="+strconv.Itoa(times), "DATABASE="+database, "BROKER="+broker)
	w.cmd.Stderr = log
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = w.cmd.Wait() // how it ended does not matter
		close(w.ended)
	}()
	return w
}

func (w *workerProcess) running() bool {
	select {
	case <-w.ended:
		return false
	default:
		return true
	}
}

func (w *workerProcess) kill() {
	_ = w.cmd.Process.Kill()
	<-w.ended
}
