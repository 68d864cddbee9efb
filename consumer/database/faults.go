package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/warrenmq/warren/consumer"
)

// met logs that the database cannot be used, if it is not known yet.
func (d *Database) met(err error) {
	if is(err, unwritable) {
		d.unwritable.Store(true)
	}
	d.outage.Begin(d.log, slog.LevelError, "the database cannot be used, deliveries that need it wait for it", err)
}

// answered logs that the database can be used again, if it could not. One that cannot be
// written to answers who reads.
func (d *Database) answered() {
	if !d.unwritable.Load() {
		d.outage.End(d.log, "the database can be used again")
	}
}

// Reason says why the database cannot be used. Empty means that it can, as far as
// is known.
func (d *Database) Reason() string { return d.outage.Reason() }

// usable takes the outcome of a step that no message can be at fault for, so that
// an error says that the database cannot be used; unless ctx has ended, or the database
// objects to a value: that is the message's own.
func (d *Database) usable(ctx context.Context, step string, err error) error {
	if err == nil {
		d.answered()
		return nil
	}
	fault := IsDataFault(err)
	err = fmt.Errorf("%s: %w", step, d.explain(err))
	if ctx.Err() != nil || fault {
		return err
	}
	d.met(err)
	return fmt.Errorf("%w: %w", consumer.ErrDatabase, err)
}

// written is usable for a step that writes.
func (d *Database) written(ctx context.Context, step string, err error) error {
	if err == nil {
		d.unwritable.Store(false)
	}
	return d.usable(ctx, step, err)
}

// lost takes the outcome of a step that the message may be at fault for, and marks
// an error that tells of a lost database.
func (d *Database) lost(err error) error {
	if err == nil || !IsLost(err) {
		return err
	}
	err = d.explain(err)
	d.met(err)
	return fmt.Errorf("%w: %w", consumer.ErrDatabase, err)
}

// explain says an error of the pool in an operator's words.
func (d *Database) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case isMissing(err):
		return fmt.Errorf("%s lacks Warren's tables, or has older ones; %s (%w)", d.dsn.name, remedy, err)
	}
	if connect, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return newConnectFault(d.dsn.name, connect)
	}
	return fmt.Errorf("%s: %w", d.dsn.name, err)
}

// Explain returns err, of a pool that [Open] made, without what pgx tells of its
// URL but for the database and its host.
func Explain(err error) error {
	if connect, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return newConnectFault("database "+connect.Config.Database, connect)
	}
	return err
}

// A connectFault is a pgconn.ConnectError without its configuration.
type connectFault struct {
	text  string
	cause error
}

func newConnectFault(name string, err *pgconn.ConnectError) *connectFault {
	cause := errors.Unwrap(err)
	return &connectFault{"cannot connect to " + name + ": " + strings.ReplaceAll(cause.Error(), "\n", "; "), cause}
}

func (f *connectFault) Error() string { return f.text }
func (f *connectFault) Unwrap() error { return f.cause }

// Text is s as both databases can hold it: valid UTF-8 without NUL.
func Text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
