package database

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/jsonvalue"
	"github.com/warrenmq/warren/internal/failpoint"
)

// An outgoing is a row of the outbox.
type outgoing struct {
	id       int64
	attempts int // in vain
	message  consumer.Message
	fault    error // why it cannot be published
}

func (o outgoing) target() target { return target{o.message.Exchange, o.message.RoutingKey} }

// read reads rows in their order, at most so many: of a target with a message that was
// refused, only that, and only when its wait is over; of one that has not answered yet, none.
// What was published already is not published again because it could not be deleted: it is
// among the undeleted. end is the end of the target of the last row that was read.
func (r *relay) read(ctx context.Context, query string, most int, begin ...any) (batch []outgoing, end place, err error) {
	busy := make([][2]string, 0, len(r.busy))
	for t := range r.busy {
		busy = append(busy, [2]string{t.exchange, t.key})
	}
	leftOut, err := json.Marshal(busy)
	if err != nil {
		return nil, end, err
	}
	var db querier = r.d.read // on SQLite, who reads need not wait for whoever writes
	if r.conn != nil {
		db = r.conn
	}
	rows, err := db.QueryContext(ctx, query, append([]any{string(leftOut), most, batchBytes, longestBody}, begin...)...)
	if err != nil {
		return nil, end, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		o, err := scan(rows)
		if err != nil {
			return nil, end, err
		}
		end = place{o.target(), math.MaxInt64}
		if id, there := r.d.published[o.id]; there && id == o.message.MessageID {
			r.undeleted[o.id], r.busy[end.target] = end.target, true
			continue
		}
		batch = append(batch, o)
	}
	batch = slices.DeleteFunc(batch, func(o outgoing) bool { return r.busy[o.target()] })
	return batch, end, errors.Join(rows.Err(), failpoint.Error(failpoint.OutboxRead))
}

func scan(rows *sql.Rows) (outgoing, error) {
	var o outgoing
	var length, expiration int64
	var headers string
	m := &o.message
	err := rows.Scan(&o.id, &o.attempts, &m.Exchange, &m.RoutingKey, &length, &m.Body, &m.MessageID, &m.ContentType, &m.ContentEncoding,
		&m.CorrelationID, &m.ReplyTo, &m.Type, &m.AppID, &m.Priority, &expiration, &headers)
	if err != nil {
		return o, err
	}
	m.Expiration = time.Duration(expiration) * time.Millisecond
	if m.Headers, err = jsonvalue.Object(headers); err != nil {
		o.fault = fmt.Errorf("its headers cannot be read: %w; give it others with UPDATE, or delete it", err)
	}
	if length > longestBody {
		o.fault = fmt.Errorf("its body has %d bytes, at most %d are published; keep it elsewhere and publish where it is, and delete this row", length, longestBody)
	}
	return o, nil
}
