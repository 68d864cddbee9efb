package consumer

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// Try runs p on d once, in a scope of its own, as a worker would: a panic becomes
// an error, and the scope is ended. It returns the result that p set. It is what
// tests of processors are made with; see package consumertest.
func Try(ctx context.Context, p Processor, d Delivery, log *slog.Logger) (Result, error) {
	return TryDatabase(ctx, nil, p, d, log)
}

// TryDatabase is Try with a database, whose inbox is not looked into.
func TryDatabase(ctx context.Context, db Database, p Processor, d Delivery, log *slog.Logger) (Result, error) {
	s := &Scope{delivery: &d, baseLog: log, span: trace.SpanFromContext(ctx), database: db}
	err := s.run(ctx, p)
	return s.result, err
}

// VerdictOf says what becomes of a delivery whose attempt returned err, while
// attempts remain and the daemon is not stopping: "ack", "retry", "dead" or, of a
// retry for which no attempt is counted, "unavailable".
func VerdictOf(err error) string {
	v := verdictOf(context.Background(), err)
	if v.uncounted {
		return "unavailable"
	}
	return v.action.String()
}
