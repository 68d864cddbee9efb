package database

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/internal/failpoint"
)

// Done tells whether the message's work is done, and what its result was.
func (d *Database) Done(ctx context.Context, k consumer.InboxKey) (consumer.Result, bool, error) {
	var r consumer.Result
	soon, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	err := d.read.QueryRowContext(soon, d.dsn.dialect.done, k.Queue, Text(k.MessageID), k.Digest[:]).Scan(&r.ContentType, &r.Body)
	done := err == nil
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	if err == nil {
		err = failpoint.Error(failpoint.InboxAsked)
	}
	return r, done, d.usable(ctx, "look into the inbox", err)
}

// Record records, outside of any transaction, that the message's work is done.
func (d *Database) Record(ctx context.Context, k consumer.InboxKey) error {
	_, err := d.write.ExecContext(ctx, d.dsn.dialect.record, k.Queue, Text(k.MessageID), k.Digest[:])
	if err == nil {
		err = failpoint.Error(failpoint.InboxRecorded)
	}
	return d.written(ctx, "record the message in the inbox", err)
}

// Begin begins a transaction and, unless k is nil, records in it that the message's
// work is done. It blocks while another transaction that has recorded the same
// message goes on, and returns [consumer.ErrDone] if that, or an earlier one, has
// committed. On SQLite it blocks while there is any other: if that takes until ctx ends,
// it is no fault of the message.
func (d *Database) Begin(ctx context.Context, k *consumer.InboxKey) (consumer.Transaction, error) {
	begun := ctx.Err() == nil
	tx, err := d.write.BeginTx(ctx, nil)
	if err == nil {
		if err = failpoint.Error(failpoint.TxBegun); err != nil {
			_ = tx.Rollback()
		}
	}
	if err != nil {
		if err = d.usable(ctx, "begin a transaction", err); begun && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", consumer.ErrDatabase, err)
		}
		return nil, err
	}
	t := &transaction{d: d, tx: tx, key: k, ended: ctx.Err}
	if k == nil {
		return t, d.usable(ctx, "", nil)
	}
	r, err := tx.ExecContext(ctx, d.dsn.dialect.record, k.Queue, Text(k.MessageID), k.Digest[:])
	var recorded int64
	if err == nil {
		recorded, err = r.RowsAffected()
	}
	if err == nil {
		err = failpoint.Error(failpoint.TxRecorded)
	}
	if err = d.written(ctx, "record the message in the inbox", err); err == nil && recorded == 0 {
		err = consumer.ErrDone
	}
	if err != nil {
		_ = tx.Rollback() // the fault is told already
		return nil, err
	}
	return t, nil
}

// A transaction is that of one delivery.
type transaction struct {
	d     *Database
	tx    *sql.Tx
	key   *consumer.InboxKey
	ended func() error // why, once the context has ended that it ends with
}

func (t *transaction) SQL() *sql.Tx { return t.tx }

// Commit commits. A result that is not nil is kept, for repeats of the message.
func (t *transaction) Commit(ctx context.Context, r *consumer.Result) error {
	if r != nil && t.key != nil {
		if _, err := t.tx.ExecContext(ctx, t.d.dsn.dialect.answer, t.key.Queue, Text(t.key.MessageID), t.key.Digest[:], Text(r.ContentType), r.Body); err != nil {
			return t.lost(fmt.Errorf("keep the result in the inbox: %w", err))
		}
	}
	if err := failpoint.Error(failpoint.TxBeforeCommit); err != nil {
		return t.lost(err)
	}
	return t.lost(cmp.Or(t.tx.Commit(), failpoint.Error(failpoint.TxCommitted)))
}

// Rollback rolls back what is not committed.
func (t *transaction) Rollback(context.Context) error {
	if err := t.tx.Rollback(); !errors.Is(err, sql.ErrTxDone) && t.ended() == nil {
		return t.lost(err)
	}
	return nil
}

// lost is as that of the database, unless its connection was closed because the context has
// ended: that is not the database's fault.
func (t *transaction) lost(err error) error {
	if t.ended() != nil {
		return err
	}
	return t.d.lost(err)
}
