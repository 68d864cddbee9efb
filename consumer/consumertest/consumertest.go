// Package consumertest runs a processor in a test, without a broker:
//
//	result, err := consumertest.Run(t.Context(), processor, consumer.Delivery{Body: []byte(`{}`)})
//	if got := consumertest.Verdict(err); got != "dead" {
package consumertest

import (
	"context"
	"log/slog"

	"github.com/warrenmq/warren/consumer"
)

// Run gives d to p for one attempt, as a worker of the daemon would, and returns
// the result that p set and the error of the attempt. It blocks until the scope
// of the attempt has ended. What is logged is dropped; see RunLog.
func Run(ctx context.Context, p consumer.Processor, d consumer.Delivery) (consumer.Result, error) {
	return RunLog(ctx, p, d, slog.New(slog.DiscardHandler))
}

// RunLog is Run with a logger for what the processor logs.
func RunLog(ctx context.Context, p consumer.Processor, d consumer.Delivery, log *slog.Logger) (consumer.Result, error) {
	return consumer.Try(ctx, p, d, log.With("queue", d.Queue))
}

// RunDatabase is Run with a database, in which the scope's transaction and outbox
// are. Its inbox is not looked into.
func RunDatabase(ctx context.Context, db consumer.Database, p consumer.Processor, d consumer.Delivery) (consumer.Result, error) {
	return consumer.TryDatabase(ctx, db, p, d, slog.New(slog.DiscardHandler))
}

// Verdict says what the daemon would do with a delivery whose attempt returned
// err while attempts remain: "ack", "retry" or "dead".
func Verdict(err error) string { return consumer.VerdictOf(err) }
