package consumer

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/consumer/internal/pulse"
	"github.com/warrenmq/warren/consumer/internal/relay"
	"github.com/warrenmq/warren/consumer/schedule"
)

// A stuckOutbox gets on until it is stuck.
type stuckOutbox struct{ stuck chan struct{} }

func (o stuckOutbox) Run(ctx context.Context, progress func(), _ func([]Message) []error) {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		progress()
		select {
		case <-tick.C:
		case <-o.stuck:
			<-ctx.Done()
			return
		case <-ctx.Done():
			return
		}
	}
}

// The watchdog sees a relay of the outbox that is stuck, and nothing in one that waits.
func TestAStuckRelayIsNotHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := &Consumer{schedules: &schedule.Runner{}}, stuckOutbox{make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			(&relay.Relay{Outbox: o, Turned: &c.relayed}).Run(ctx, ctx)
		}()
		<-time.After(10 * time.Minute)
		if err := c.Healthy(); err != nil {
			t.Errorf("a relay that gets on: %v", err)
		}
		close(o.stuck)
		<-time.After(pulse.StuckAfter + 31*time.Second)
		if err := c.Healthy(); err == nil || !strings.Contains(err.Error(), "the relay of the outbox has been stuck for 1m") {
			t.Errorf("a relay that is stuck: got %v", err)
		}
		cancel()
		<-ended
		if err := c.Healthy(); err != nil {
			t.Errorf("a relay that has ended: %v", err)
		}
	})
}
