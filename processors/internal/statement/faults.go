package statement

import (
	"context"
	"fmt"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
)

// Verdict marks an error of the database as permanent if the statement or its
// parameters are at fault: then no retry helps.
func Verdict(err error) error {
	err = database.Explain(err)
	if database.IsStatementFault(err) {
		return consumer.Permanent(err)
	}
	return err
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
