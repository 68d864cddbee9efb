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
	open, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t := &transaction{d: d, key: k, ended: ctx.Err, cancel: cancel, detach: context.AfterFunc(ctx, cancel)}
	tx, err := d.write.BeginTx(open, nil)
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
	t.tx = tx
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
	d      *Database
	tx     *sql.Tx
	key    *consumer.InboxKey
	ended  func() error       // why, once the attempt has ended
	cancel context.CancelFunc // ends the transaction, and a wait for the database
	detach func() bool        // keeps the end of the attempt from doing so; false: it has
}

func (t *transaction) SQL() *sql.Tx { return t.tx }

// Commit commits. A result that is not nil is kept, for repeats of the message. From here
// on the transaction ends with ctx, not with its attempt: a commit that is cut short may
// have been made or not. If the database has not answered by then, the error wraps
// [consumer.ErrDatabase], and the inbox tells the next attempt.
func (t *transaction) Commit(ctx context.Context, r *consumer.Result) error {
	if !t.detach() {
		return cmp.Or(t.ended(), sql.ErrTxDone)
	}
	if err := ctx.Err(); err != nil { // the resources before have used it up: no fault of the database
		return err
	}
	defer context.AfterFunc(ctx, t.cancel)()
	if r != nil && t.key != nil {
		if _, err := t.tx.ExecContext(ctx, t.d.dsn.dialect.answer, t.key.Queue, Text(t.key.MessageID), t.key.Digest[:], Text(r.ContentType), r.Body); err != nil {
			return t.lost(ctx, fmt.Errorf("keep the result in the inbox: %w", err))
		}
	}
	if err := failpoint.Error(failpoint.TxBeforeCommit); err != nil {
		return t.lost(ctx, err)
	}
	return t.lost(ctx, cmp.Or(t.tx.Commit(), failpoint.Error(failpoint.TxCommitted)))
}

// Rollback rolls back what is not committed, until ctx ends: then the connection is closed,
// and the database does so.
func (t *transaction) Rollback(ctx context.Context) error {
	defer t.cancel()
	late := ctx.Err() != nil
	defer context.AfterFunc(ctx, t.cancel)()
	if err := t.tx.Rollback(); !errors.Is(err, sql.ErrTxDone) && t.ended() == nil && !late {
		return t.lost(ctx, err)
	}
	return nil
}

// lost is as that of the database, for which it is a fault, too, not to have answered
// when ctx has ended.
func (t *transaction) lost(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return t.d.lost(err)
	}
	err = fmt.Errorf("%s has not answered in time: %w", t.d.dsn.name, err)
	t.d.met(err)
	return fmt.Errorf("%w: %w", consumer.ErrDatabase, err)
}
