// Package sql executes a named SQL statement for each delivery, in the transaction
// that also records the delivery as done.
//
// The body of a delivery is a JSON object:
//
//	{
//	  "statement": "expire-tokens",            the file expire-tokens.sql of STATEMENTS
//	  "params": {"before": "2026-01-01T00:00:00Z"}  as the file declares them
//	}
//
// The result is a JSON object with rows, the number of rows that were inserted,
// updated or deleted. A message that is at fault, or whose statement is, is
// dead-lettered; all else is tried again.
package sql

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/processors/internal/statement"
	"github.com/warrenmq/warren/processors/internal/strictjson"
	"github.com/warrenmq/warren/processors/registry"
)

// Config is what an sql processor is made from.
type Config struct {
	// Statements is a folder with NAME.sql, read once at start. Required.
	Statements string `envconfig:"STATEMENTS" required:"true" desc:"A folder with NAME.sql, the statements."`
}

// Validate reads the statements. The error names every fault of c.
func (c *Config) Validate(q registry.Queue) error {
	_, err := c.processor(q)
	return err
}

// Open returns the processor, which uses the transactions of the daemon's database.
func (c *Config) Open(q registry.Queue, _ *slog.Logger) (consumer.Processor, error) {
	p, err := c.processor(q)
	if err != nil {
		return nil, err
	}
	return p, nil
}

var _ registry.Checker = (*Config)(nil)

// Check has the database parse every statement, and executes none.
func (c *Config) Check(ctx context.Context, q registry.Queue) (string, error) {
	p, err := c.processor(q)
	if err != nil {
		return "", err
	}
	db, err := database.OpenTraceless(q.DatabaseURL)
	if err != nil {
		return "", err
	}
	found, err := p.statements.Check(ctx, db)
	return found, errors.Join(err, db.Close())
}

func (c *Config) processor(q registry.Queue) (processor, error) {
	var missing error
	if q.DatabaseURL == "" {
		missing = errors.New("there is no database: set WARREN_DATABASE_URL")
	}
	dialect := statement.DialectOf(q.DatabaseURL)
	statements, err := statement.Load("STATEMENTS", c.Statements, "statement", dialect)
	return processor{statements, dialect}, errors.Join(missing, err)
}

type processor struct {
	statements *statement.Set
	dialect    statement.Dialect
}

// A message is the body of a delivery. Other fields are refused: a slip in a name must
// not have the defaults of all parameters count.
type message struct {
	Statement string                     `json:"statement"`
	Params    map[string]json.RawMessage `json:"params"`
}

// A result is what a publisher that set reply-to is answered.
type result struct {
	Rows int64 `json:"rows"`
}

// Process executes the statement that the body of d names.
func (p processor) Process(ctx context.Context, d consumer.Delivery, scope *consumer.Scope) error {
	var msg message
	if err := strictjson.Body(d, &msg, "statement and params"); err != nil {
		return err
	}
	bound, err := p.statements.Bind(msg.Statement, msg.Params)
	if err != nil {
		return err
	}
	tx, err := scope.Tx(ctx)
	if err != nil {
		return err
	}
	done, err := p.execute(ctx, tx, bound)
	if err != nil {
		return fmt.Errorf("statement %s: %w", bound.Name, statement.Ended(ctx, statement.Verdict(ctx, err)))
	}
	rows, err := done.RowsAffected()
	if err != nil {
		return err
	}
	body, err := json.Marshal(result{rows})
	if err != nil {
		return err
	}
	scope.SetResult(consumer.Result{Body: body})
	return nil
}

// execute executes the statement within its own timeout. In PostgreSQL that is the
// server's to keep: the driver would give up the connection, and the transaction
// would seem to be lost.
func (p processor) execute(ctx context.Context, tx *sql.Tx, b *statement.Bound) (sql.Result, error) {
	if p.dialect == statement.SQLite {
		limited, cancel := b.Limit(ctx)
		defer cancel()
		done, err := tx.ExecContext(limited, b.SQL, b.Args...)
		if err != nil && ctx.Err() == nil {
			err = statement.Ended(limited, err)
		}
		return done, err
	}
	if b.Timeout > 0 {
		if _, err := tx.ExecContext(ctx, "SELECT set_config('statement_timeout', $1, true)", strconv.FormatInt(max(b.Timeout.Milliseconds(), 1), 10)); err != nil {
			return nil, err
		}
	}
	done, err := tx.ExecContext(ctx, b.SQL, b.Args...)
	if b.Timeout > 0 && database.IsCanceled(err) {
		err = fmt.Errorf("it took longer than its timeout of %v (%w)", b.Timeout, err)
	}
	return done, err
}
