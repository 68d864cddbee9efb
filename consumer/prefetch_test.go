package consumer

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestPrefetchFollowsFastAndSlowAttempts works without taking time, and then slowly: more
// is handed out at first, and little later, and no message is redelivered or repeated for
// that.
func TestPrefetchFollowsFastAndSlowAttempts(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	const concurrency = 4
	var slow atomic.Bool
	var worked, redelivered atomic.Int64
	r := run(t, []string{v.URL}, Queue{Name: "orders", Concurrency: concurrency, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		worked.Add(1)
		if d.Redelivered {
			redelivered.Add(1)
		}
		if slow.Load() {
			<-time.After(200 * time.Millisecond)
		}
		return nil
	})})
	published := int64(0)
	publish := func(n int) {
		v.PublishN(t, "orders", n, func(int) amqp.Publishing { return amqp.Publishing{Body: []byte("1"), DeliveryMode: amqp.Persistent} })
		published += int64(n)
	}
	prefetch := &r.loops[0].state.Prefetch
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		publish(200)
		return prefetch.Load() > 3*concurrency
	}, "fast attempts have more handed out")
	slow.Store(true)
	publish(50 * concurrency)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return prefetch.Load() == 2*concurrency }, "slow attempts have little handed out")
	slow.Store(false)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return worked.Load() >= published && v.Unacked(t, "orders") == 0 }, "all is worked")
	equal(t, worked.Load(), published)
	equal(t, redelivered.Load(), 0)
}

// TestPrefetchOfAttemptsOfSeconds holds no more than what is worked and as much again.
func TestPrefetchOfAttemptsOfSeconds(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	const concurrency = 8
	var begun, ended atomic.Int64
	r := run(t, []string{v.URL}, Queue{Name: "reports", Concurrency: concurrency, Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error {
		begun.Add(1)
		<-time.After(2 * time.Second)
		ended.Add(1)
		return nil
	})})
	v.PublishN(t, "reports", 10*concurrency, func(int) amqp.Publishing { return amqp.Publishing{Body: []byte("1")} })
	rabbittest.Eventually(t, time.Minute, func() bool { return ended.Load() >= 5*concurrency }, "five rounds have ended")
	if unacked := v.Unacked(t, "reports"); unacked > 2*concurrency {
		t.Errorf("%d messages are held, want at most twice the concurrency, %d", unacked, 2*concurrency)
	}
	equal(t, r.loops[0].state.Prefetch.Load(), 2*concurrency)
	if n := begun.Load() - ended.Load(); n > concurrency {
		t.Errorf("%d are worked at once, want %d", n, concurrency)
	}
}
