package database

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	sqlitedriver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// A class is what errors of a database have in common: codes of PostgreSQL (SQLSTATE),
// or how they begin, and primary result codes of SQLite.
type class struct {
	postgres []string
	sqlite   []int
}

var (
	// lost: it did not do what it was asked for a reason of its own.
	lost = class{
		[]string{
			"08",    // connection
			"53",    // disk, memory, connections used up
			"57P",   // shutting down, starting up
			"25006", // read-only: a standby
		},
		[]int{sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY},
	}
	// lasting: somebody has to change something.
	lasting = class{
		[]string{
			"28",    // user, password, pg_hba.conf
			"3D000", // no such database
			"42501", // not permitted
		},
		[]int{sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PERM},
	}
	// missing: a table, column or schema. SQLite has no code of its own for that.
	missing = class{[]string{"42P01", "42703", "3F000"}, nil}
	// data: a value that cannot be stored, such as text with NUL or a number out of range.
	data = class{[]string{"22", "23"}, []int{sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT}}
	// statement: syntax, an unknown table, a missing permission, a value out of range.
	statement = class{[]string{"42", "22"}, []int{sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE}}
	// readOnly: what only reads was to write.
	readOnly = class{[]string{"25006"}, []int{sqlite3.SQLITE_READONLY}}
	// unwritable: what reads may do so all the while.
	unwritable = class{
		[]string{"25006", "53100" /* a full disk */, "42501"},
		[]int{sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY},
	}
	// canceled: by its own timeout, or by an operator.
	canceled = class{[]string{"57014"}, []int{sqlite3.SQLITE_INTERRUPT}}
)

// has tells whether err is one of c; and whether it is an answer of a database at all.
func (c class) has(err error) (in, answered bool) {
	if reply, ok := errors.AsType[*pgconn.PgError](err); ok {
		return slices.ContainsFunc(c.postgres, func(code string) bool { return strings.HasPrefix(reply.Code, code) }), true
	}
	if fault, ok := errors.AsType[*sqlitedriver.Error](err); ok {
		return slices.Contains(c.sqlite, fault.Code()&0xff), true
	}
	return false, false
}

func is(err error, c class) bool {
	in, _ := c.has(err)
	return in
}

// IsLost tells whether err means that the database did not do what it was asked for a
// reason of its own, not because of what it was.
func IsLost(err error) bool {
	if in, answered := lost.has(err); answered {
		return in
	}
	own := errors.Is(err, sql.ErrTxDone) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	return err != nil && !own && !errors.Is(err, pgx.ErrTxCommitRollback)
}

// IsDataFault tells whether err is about a value that the database does not take: it
// will not take it later, either.
func IsDataFault(err error) bool { return is(err, data) }

// IsStatementFault tells whether the statement or its parameters are at fault.
func IsStatementFault(err error) bool { return is(err, statement) }

// IsReadOnly tells whether what may only read was asked to write.
func IsReadOnly(err error) bool { return is(err, readOnly) }

// IsCanceled tells whether a statement was cut short by its timeout, or by somebody.
func IsCanceled(err error) bool { return is(err, canceled) }

// isLasting tells whether err stays until somebody changes something.
func isLasting(err error) bool {
	return is(err, lasting) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrTables)
}

// isMissing tells whether err says that a table or schema is not there.
func isMissing(err error) bool {
	if fault, ok := errors.AsType[*sqlitedriver.Error](err); ok {
		return strings.Contains(fault.Error(), "no such table") || strings.Contains(fault.Error(), "no such column")
	}
	return is(err, missing)
}
