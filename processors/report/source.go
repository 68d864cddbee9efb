package report

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/processors/internal/statement"
)

// rollbackTimeout is how long a server that may be frozen has to end a transaction.
const rollbackTimeout = 5 * time.Second

// A source is the database that reports read from.
type source struct {
	db      *sql.DB
	dialect statement.Dialect
}

// checkSource returns the fault of a URL that newSource would not take.
func checkSource(url string) error {
	s, err := newSource(url, nil, 1)
	if err != nil {
		return err
	}
	return s.db.Close() // it never was connected
}

func newSource(url string, readURL func() (string, error), concurrency int) (*source, error) {
	if url == "" {
		return nil, errors.New("SOURCE_URL is not set: set it, or WARREN_DATABASE_URL")
	}
	db, err := database.OpenReader(url, readURL)
	if err != nil {
		return nil, fmt.Errorf("SOURCE_URL %w", err)
	}
	db.SetMaxOpenConns(concurrency)
	return &source{db, statement.DialectOf(url)}, nil
}

// read gives the encoder all that the query returns, a row at a time, and returns
// how many rows there were.
func (s *source) read(ctx context.Context, query *statement.Bound, to encoder) (rows int64, err error) {
	if s.dialect == statement.SQLite {
		rows, err = s.readSQLite(ctx, query, to)
	} else {
		rows, err = s.readPostgres(ctx, query, to)
	}
	own, isOwn := errors.AsType[ownFault](err)
	switch {
	case isOwn:
		err = own.error
	case database.IsReadOnly(err):
		err = consumer.Permanent(fmt.Errorf("it is to write, and reports only read: make it a statement of a queue with the processor sql (%w)", err))
	case err != nil:
		err = statement.Verdict(ctx, err)
	default:
		err = to.end()
	}
	return rows, err
}

// An ownFault is one that arises while the database is read, but is not the database's.
type ownFault struct{ error }

// write tells an error of an encoder from one of the database.
func write(err error) error {
	if err != nil {
		err = ownFault{err}
	}
	return err
}

// errNoColumns is for a query that is none.
var errNoColumns = ownFault{consumer.Permanent(errors.New("it returns no columns: make it a SELECT"))}

// readPostgres reads in a read-only transaction. Values come as PostgreSQL itself
// writes them, which is exact for all types.
func (s *source) readPostgres(ctx context.Context, query *statement.Bound, to encoder) (count int64, err error) {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // back to the pool
	err = conn.Raw(func(driver any) error {
		tx, err := driver.(*stdlib.Conn).Conn().BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		defer func() { // nothing is to last; if it fails, the connection is lost, and the transaction with it
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
			defer cancel()
			_ = tx.Rollback(ctx)
		}()
		if err := prepare(ctx, tx); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, query.SQL, append([]any{pgx.QueryResultFormats{pgx.TextFormatCode}}, query.Args...)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		more := rows.Next() // from here on the columns are known, whatever the protocol
		if err := rows.Err(); err != nil {
			return err
		}
		var names []string
		var kinds []kind
		for _, f := range rows.FieldDescriptions() {
			names, kinds = append(names, f.Name), append(kinds, kindOf(f.DataTypeOID))
		}
		if len(names) == 0 {
			return errNoColumns
		}
		if err := write(to.header(names)); err != nil {
			return err
		}
		cells := make([]cell, len(kinds))
		for ; more; more = rows.Next() {
			for i, raw := range rows.RawValues() {
				cells[i] = postgresCell(kinds[i], raw)
			}
			if err := write(to.row(cells)); err != nil {
				return err
			}
			count++
		}
		return rows.Err()
	})
	return count, err
}

// prepare sets up the transaction: how values are written, and that the server gives
// up, too, when the attempt has ended.
func prepare(ctx context.Context, tx pgx.Tx) error {
	var limit int64 // milliseconds; zero is none
	if deadline, ok := ctx.Deadline(); ok {
		limit = max(time.Until(deadline).Milliseconds(), 1) + 1000 // the attempt's own end says more
	}
	_, err := tx.Exec(ctx, `SELECT set_config('statement_timeout', $1, true), set_config('datestyle', 'ISO', true),
		set_config('intervalstyle', 'iso_8601', true), set_config('bytea_output', 'hex', true), set_config('extra_float_digits', '1', true)`,
		strconv.FormatInt(min(limit, math.MaxInt32), 10))
	return err
}

// kindOf is how values of a type of PostgreSQL are told.
func kindOf(oid uint32) kind {
	switch oid {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID, pgtype.OIDOID:
		return number
	case pgtype.BoolOID:
		return boolean
	case pgtype.JSONOID, pgtype.JSONBOID:
		return jsonValue
	case pgtype.ByteaOID:
		return binary
	case pgtype.TimestampOID, pgtype.TimestamptzOID:
		return timestamp
	}
	return text
}

func postgresCell(k kind, raw []byte) cell {
	if raw == nil {
		return cell{kind: null}
	}
	s := string(raw)
	switch k {
	case boolean:
		return cell{boolean, strconv.FormatBool(s == "t")}
	case binary:
		b, err := hex.DecodeString(strings.TrimPrefix(s, `\x`))
		if err != nil {
			return cell{text, s} // not as asked for; as it came, then
		}
		return binaryCell(b)
	case timestamp:
		return cell{text, rfc3339(s)}
	case number:
		if last := s[len(s)-1]; last < '0' || last > '9' { // NaN, Infinity
			return cell{text, s}
		}
	}
	return cell{k, s}
}

func binaryCell(b []byte) cell { return cell{text, base64.StdEncoding.EncodeToString(b)} }

// rfc3339 turns 2026-01-31 12:00:00.5+01 into 2026-01-31T12:00:00.5+01:00. What
// RFC 3339 cannot say, such as infinity, stays as it is.
func rfc3339(s string) string {
	date, clock, ok := strings.Cut(s, " ")
	if !ok || strings.Contains(clock, " ") { // before Christ
		return s
	}
	switch zone := strings.LastIndexAny(clock, "+-"); {
	case zone < 0:
	case clock[zone:] == "+00":
		clock = clock[:zone] + "Z"
	case len(clock)-zone == len("+01"):
		clock += ":00"
	}
	return date + "T" + clock
}

func (s *source) readSQLite(ctx context.Context, query *statement.Bound, to encoder) (count int64, err error) {
	rows, err := s.db.QueryContext(ctx, query.SQL, query.Args...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }() // its error is that of Err
	types, err := rows.ColumnTypes()
	if err != nil {
		return 0, err
	}
	if len(types) == 0 {
		return 0, errNoColumns
	}
	names := make([]string, len(types))
	values, targets, cells := make([]any, len(types)), make([]any, len(types)), make([]cell, len(types))
	for i, t := range types {
		names[i], targets[i] = t.Name(), &values[i]
	}
	if err := write(to.header(names)); err != nil {
		return 0, err
	}
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return count, err
		}
		for i, v := range values {
			cells[i] = sqliteCell(v, types[i].DatabaseTypeName())
		}
		if err := write(to.row(cells)); err != nil {
			return count, err
		}
		count++
	}
	return count, rows.Err()
}

// sqliteCell tells a value of SQLite, which has few types; the driver makes times of
// text in columns that are declared as such.
func sqliteCell(v any, declared string) cell {
	switch v := v.(type) {
	case nil:
		return cell{kind: null}
	case int64:
		if strings.HasPrefix(strings.ToUpper(declared), "BOOL") && (v == 0 || v == 1) {
			return cell{boolean, strconv.FormatBool(v == 1)}
		}
		return cell{number, strconv.FormatInt(v, 10)}
	case float64:
		if math.IsInf(v, 0) {
			return cell{text, fmt.Sprint(v)}
		}
		return cell{number, strconv.FormatFloat(v, 'g', -1, 64)}
	case []byte:
		return binaryCell(v)
	case time.Time:
		if declared == "DATE" && v.Equal(v.Truncate(24*time.Hour)) {
			return cell{text, v.Format(time.DateOnly)}
		}
		return cell{text, v.Format(time.RFC3339Nano)}
	}
	return cell{text, strings.ToValidUTF8(fmt.Sprint(v), "\ufffd")}
}
