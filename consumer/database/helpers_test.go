package database

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/internal/logtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

type logBuffer = logtest.Buffer

// consume runs a consumer of the queue work with the database, and returns what
// stops it and waits for its end. The end of the test does so, too.
func consume(t testing.TB, url string, db *Database, log *logBuffer, p consumer.ProcessorFunc) (stop func()) {
	t.Helper()
	c, err := consumer.New(consumer.Config{
		Nodes:    []string{url},
		Database: db, Outbox: db,
		Queues: []consumer.Queue{{Name: "work", Processor: p, Concurrency: 16, Prefetch: 64, RetryMax: 4 * time.Second, MaxAttempts: 3}},
	}, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("the end of the log:\n%s", log.String()[max(0, len(log.String())-6000):])
		}
	})
	rabbittest.Eventually(t, 20*time.Second, func() bool { return c.Status().Queues[0].Reason == "" }, "the queue is consumed")
	return stop
}

func message(id, body string) amqp.Publishing {
	return amqp.Publishing{MessageId: id, Body: []byte(body), DeliveryMode: amqp.Persistent}
}

// workQueue are the arguments with which the consumer declares its queue, for tests
// that fill it before.
var workQueue = amqp.Table{
	"x-overflow": "reject-publish", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "work.dead",
	"x-dead-letter-strategy": "at-least-once", "x-delivery-limit": int32(20),
}

// progress is for tests to which it does not matter whether a relay is stuck.
func progress() {}
