package broker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestWhatIsConfirmedOfABatchCounts ends a batch before its first message is confirmed. The
// others have been, and published once more they would be there twice.
func TestWhatIsConfirmedOfABatchCounts(t *testing.T) {
	for name, stuck := range map[string]bool{"the channel closes": false, "the channel is stuck": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := connTo(t, served{stuck: stuck, takes: func(_ byte, queue string) bool { return queue != "silent" }})
				batch := make([]Outgoing, 20)
				for i := range batch {
					batch[i] = Outgoing{Key: "jobs", Message: amqp.Publishing{}}
				}
				batch[0].Key = "silent"
				ctx, end := context.WithCancelCause(t.Context())
				errs := make(chan []error, 1)
				go func() { errs <- c.PublishBatch(ctx, batch) }()
				synctest.Wait()
				end(ErrNoConfirm)
				for i, err := range <-errs {
					if i == 0 && !errors.Is(err, ErrNoConfirm) || i > 0 && err != nil {
						t.Errorf("message %d to %s: got %v", i, batch[i].Key, err)
					}
				}
				c.Close()
			})
		})
	}
}
