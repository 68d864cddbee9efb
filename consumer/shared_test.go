package consumer

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestWaitsShareAChannel publishes many waits at once. Each is told what has become of
// itself: the one that has no queue, those beside it, and those beside one for which the
// broker closes the channel that all share.
func TestWaitsShareAChannel(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "waiting", nil)
	c := dial(t, v.URL)
	publish := func(queue string, headers amqp.Table, alone bool) error {
		headers[broker.HeaderCopy] = rand.Text()
		return c.Publish(context.Background(), broker.Outgoing{Key: queue, Purpose: broker.ForWait, Alone: alone, Message: amqp.Publishing{Headers: headers}})
	}
	const n = 1000
	confirmed, unknown, missing := 0, 0, 0
	for _, culprit := range []bool{false, true} {
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				queue, headers := "waiting", amqp.Table{}
				switch {
				case i%10 == 0:
					queue = "nowhere"
				case culprit && i%100 == 1:
					headers["CC"] = int64(1)
				}
				err := publish(queue, headers, false)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, broker.ErrShared) && culprit:
					unknown++
				case err == nil && queue == "waiting" && headers["CC"] == nil:
					confirmed++
				case errors.Is(err, broker.ErrUnroutable) && queue == "nowhere":
					missing++
				default:
					t.Errorf("message %d to %s: got %v", i, queue, err)
				}
			})
		}
		all.Wait()
		if !culprit {
			equal(t, []int{confirmed, missing}, []int{n * 9 / 10, n / 10})
		}
	}
	if unknown < n/100 {
		t.Errorf("nothing is known of %d messages, want at least those that are at fault", unknown)
	}
	if ready := v.Ready(t, "waiting"); ready < confirmed || ready > confirmed+unknown {
		t.Errorf("%d messages wait, want the %d that were confirmed, and some of the %d of which nothing is known", ready, confirmed, unknown)
	}
	if err := publish("waiting", amqp.Table{"CC": int64(1)}, true); !broker.IsObjection(err) {
		t.Errorf("the message at fault, alone: got %v, want what the broker objects to", err)
	}
	if err := publish("waiting", amqp.Table{}, false); err != nil {
		t.Errorf("after that: %v", err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { _, channels := v.Connections(t); return channels <= 4 }, "few channels are open")
}
