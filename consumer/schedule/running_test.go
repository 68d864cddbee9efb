package schedule

import (
	"context"
	"log/slog"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A running is a Runner at work in a test.
type running struct {
	*Runner
	log  *logBuffer
	stop context.CancelFunc
	done chan struct{}
}

// runScheduled runs a Runner of the schedules on a node.
func runScheduled(t *testing.T, url, version string, schedules ...Schedule) *running {
	t.Helper()
	return runConfig(t, url, Config{Version: version, Schedules: schedules}, nil)
}

func runConfig(t *testing.T, url string, cfg Config, change func(*Runner)) *running {
	t.Helper()
	r := &running{log: &logBuffer{}, done: make(chan struct{})}
	var err error
	if r.Runner, err = New(cfg, slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r.Runner)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() {
		r.Run(ctx, context.WithoutCancel(ctx))
		close(r.done)
	}()
	r.Offer(url)
	t.Cleanup(func() {
		r.end()
		if t.Failed() {
			t.Logf("the log:\n%s", r.log)
		}
	})
	return r
}

// end stops the Runner and returns how long that took.
func (r *running) end() time.Duration {
	start := time.Now()
	r.stop()
	<-r.done
	return time.Since(start)
}

// leading tells whether the Runner leads all of its schedules.
func (r *running) leading() bool {
	for _, s := range r.Status() {
		if !s.Leading {
			return false
		}
	}
	return true
}

func awaitLeader(t *testing.T, among ...*running) *running {
	t.Helper()
	var leader *running
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		for _, r := range among {
			if r.leading() {
				leader = r
			}
		}
		return leader != nil
	}, "somebody leads")
	return leader
}

// firings drains the queue and checks that each message is one of the schedule, and
// there but once. It returns the planned times.
func firings(t *testing.T, v *rabbittest.Vhost, queue, schedule string) []time.Time {
	t.Helper()
	planned, repeats := repeatedFirings(t, v, queue, schedule)
	if len(repeats) > 0 {
		t.Errorf("%q are there twice", repeats)
	}
	return planned
}

// repeatedFirings is firings where some may be there twice: it returns each once, and the
// message-ids of those that are.
func repeatedFirings(t *testing.T, v *rabbittest.Vhost, queue, schedule string) (out []time.Time, repeats []string) {
	t.Helper()
	seen := make(map[string]bool)
	for _, d := range v.Drain(t, queue) {
		ms, _ := d.Headers["x-warren-scheduled-for"].(int64)
		planned := time.UnixMilli(ms).UTC()
		if d.Headers["x-warren-schedule"] != schedule || d.MessageId != schedule+"@"+planned.Format(time.RFC3339) || d.DeliveryMode != amqp.Persistent {
			t.Errorf("a message %q with %v, which is no firing of %s", d.MessageId, d.Headers, schedule)
		}
		if seen[d.MessageId] {
			repeats = append(repeats, d.MessageId)
			continue
		}
		seen[d.MessageId] = true
		out = append(out, planned)
	}
	return out, repeats
}

// withoutGaps checks that the times follow each other.
func withoutGaps(t *testing.T, times []time.Time, every time.Duration) {
	t.Helper()
	for i := 1; i < len(times); i++ {
		if times[i].Sub(times[i-1]) != every {
			t.Errorf("after %v comes %v", times[i-1], times[i])
		}
	}
}
