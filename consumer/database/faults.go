package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	sqlitedriver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/warrenmq/warren/consumer"
)

// met logs that the database cannot be used, if it is not known yet.
func (d *Database) met(err error) {
	d.outage.Begin(d.log, slog.LevelError, "the database cannot be used, deliveries that need it wait for it", err)
}

// answered logs that the database can be used again, if it could not.
func (d *Database) answered() { d.outage.End(d.log, "the database can be used again") }

// Reason says why the database cannot be used. Empty means that it can, as far as
// is known.
func (d *Database) Reason() string { return d.outage.Reason() }

// usable takes the outcome of a step that no message can be at fault for, so that
// an error says that the database cannot be used; unless ctx has ended.
func (d *Database) usable(ctx context.Context, step string, err error) error {
	if err == nil {
		d.answered()
		return nil
	}
	err = fmt.Errorf("%s: %w", step, d.explain(err))
	if ctx.Err() == nil {
		d.met(err)
	}
	return err
}

// lost takes the outcome of a step that the message may be at fault for, and marks
// an error that tells of a lost database.
func (d *Database) lost(err error) error {
	if err == nil || !isLost(err) {
		return err
	}
	err = d.explain(err)
	d.met(err)
	return fmt.Errorf("%w: %w", consumer.ErrDatabase, err)
}

// isLost tells whether err means that the database did not do what it was asked
// for a reason of its own, not because of what it was.
func isLost(err error) bool {
	if reply, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case strings.HasPrefix(reply.Code, "57P"), // shutting down, starting up
			strings.HasPrefix(reply.Code, "08"), // connection
			strings.HasPrefix(reply.Code, "53"), // disk, memory, connections used up
			reply.Code == "25006":               // read-only: a standby
			return true
		}
		return false
	}
	if fault, ok := errors.AsType[*sqlitedriver.Error](err); ok {
		switch fault.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY:
			return true
		}
		return false
	}
	own := errors.Is(err, sql.ErrTxDone) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	return !own && !errors.Is(err, pgx.ErrTxCommitRollback)
}

// explain says an error of the pool in an operator's words.
func (d *Database) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case isMissing(err):
		return fmt.Errorf("%s lacks Warren's tables, or has older ones; %s (%w)", d.place.name, remedy, err)
	}
	if connect, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return newConnectFault(d.place.name, connect)
	}
	return fmt.Errorf("%s: %w", d.place.name, err)
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

// isLasting tells whether err stays until somebody changes something.
func isLasting(err error) bool {
	if reply, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case strings.HasPrefix(reply.Code, "28"), // user, password, pg_hba.conf
			reply.Code == "3D000", // no such database
			reply.Code == "42501": // not permitted
			return true
		}
	}
	if fault, ok := errors.AsType[*sqlitedriver.Error](err); ok {
		switch fault.Code() & 0xff {
		case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PERM:
			return true
		}
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrTables)
}

// isMissing tells whether err says that a table or schema is not there.
func isMissing(err error) bool {
	if reply, ok := errors.AsType[*pgconn.PgError](err); ok {
		return reply.Code == "42P01" || reply.Code == "42703" || reply.Code == "3F000" // table, column, schema
	}
	fault, ok := errors.AsType[*sqlitedriver.Error](err)
	return ok && (strings.Contains(fault.Error(), "no such table") || strings.Contains(fault.Error(), "no such column"))
}
