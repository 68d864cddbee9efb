package statement

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
)

// Verdict marks an error of the database: as permanent if the statement, its parameters
// or a constraint that they violate is at fault, which no retry helps, and as
// unavailable if the database is away, refuses the connection, or has no room. What
// ctx has cut short says nothing about the database.
func Verdict(ctx context.Context, err error) error {
	_, refused := errors.AsType[*pgconn.ConnectError](err)
	explained := database.Explain(err)
	switch {
	case database.IsStatementFault(err), database.IsDataFault(err):
		return consumer.Permanent(explained)
	case ctx.Err() == nil && (refused || database.IsLost(err)):
		return consumer.Unavailable(explained)
	}
	return explained
}

// Limit returns ctx with the statement's own timeout, if it has one.
func (b *Bound) Limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if b.Timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, b.Timeout, fmt.Errorf("it took longer than its timeout of %v", b.Timeout))
}

// Ended says why ctx has ended, if it has, in the error of what that has cut short.
func Ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}
