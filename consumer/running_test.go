package consumer

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A running is a Consumer at work in a test.
type running struct {
	*Consumer
	log  *logBuffer
	stop context.CancelFunc
	done chan error // what Run returned, once
}

// run starts a Consumer of the queues on the nodes and waits until each is
// consumed. When the test ends it is stopped, and must end cleanly if the test has
// not asked for its end itself.
func run(t *testing.T, nodes []string, queues ...Queue) *running {
	t.Helper()
	return runConfig(t, Config{Nodes: nodes, Queues: queues, Worker: "vm1 1.0"}, nil)
}

// runLong is run with so long a shutdown timeout that the test can hold what is in flight
// while it is stopped, on a busy machine as well.
func runLong(t *testing.T, nodes []string, queues ...Queue) *running {
	t.Helper()
	return runConfig(t, Config{Nodes: nodes, Queues: queues, ShutdownTimeout: 10 * time.Minute}, nil)
}

// runQueues is run where only so many of the queues can be consumed.
func runQueues(t *testing.T, nodes []string, consumed int, queues ...Queue) *running {
	t.Helper()
	return runUntil(t, Config{Nodes: nodes, Queues: queues, Worker: "vm1 1.0"}, consumed, nil)
}

func runConfig(t *testing.T, cfg Config, change func(*Consumer)) *running {
	t.Helper()
	return runUntil(t, cfg, len(cfg.Queues), change)
}

// runUntil starts a Consumer and waits until so many of its queues are consumed.
func runUntil(t *testing.T, cfg Config, consumed int, change func(*Consumer)) *running {
	t.Helper()
	r := &running{log: &logBuffer{}, done: make(chan error, 1)}
	var err error
	if r.Consumer, err = New(cfg, slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r.Consumer)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.done; err != nil && !errors.Is(err, ErrAbandoned) {
			t.Errorf("Run returned %v", err)
		}
		if t.Failed() {
			t.Logf("the log:\n%s", r.log)
		}
	})
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		return strings.Count(r.log.String(), "msg=consuming") >= consumed
	}, "the queues are consumed")
	return r
}

// end stops the Consumer and returns what Run returned, and how long it took.
func (r *running) end() (time.Duration, error) {
	start := time.Now()
	r.stop()
	err := <-r.done
	r.done <- err // for the end of the test
	return time.Since(start), err
}

// A ledger is where processors write down each attempt, outside of Warren.
type ledger struct {
	mu       sync.Mutex
	attempts map[string][]time.Time // by message id
}

func newLedger() *ledger { return &ledger{attempts: map[string][]time.Time{}} }

func (l *ledger) write(d Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts[d.MessageID] = append(l.attempts[d.MessageID], time.Now())
}

func (l *ledger) of(id string) []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.attempts[id]
}

// counts returns how many messages were attempted, and how many attempts were
// made beyond the first.
func (l *ledger) counts() (messages, repeats int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.attempts {
		repeats += len(a) - 1
	}
	return len(l.attempts), repeats
}

// done is a processor that writes each delivery down and succeeds.
func (l *ledger) done() Processor {
	return ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		l.write(d)
		return nil
	})
}
