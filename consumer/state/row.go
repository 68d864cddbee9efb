package state

import (
	"encoding/hex"
	"math"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
)

type key struct{ id, queue string }

// A row is a transition as the database gets it.
type row struct {
	MessageID   string         `json:"message_id"`
	Queue       string         `json:"queue"`
	State       consumer.State `json:"state"`
	Attempt     int            `json:"attempt"`
	Redelivered bool           `json:"redelivered"`
	UpdatedAt   int64          `json:"updated_at"`
	DueAt       *int64         `json:"due_at"`
	Percent     int            `json:"percent"`
	Progress    string         `json:"progress"`
	Reason      string         `json:"reason"`
	Error       string         `json:"error"`
	ResultType  string         `json:"result_type"`
	Result      hexBytes       `json:"result"`
	ResultBytes int            `json:"result_bytes"`
	Ord         int            `json:"ord"`
	Begins      bool           `json:"begins"`
	ExpiresAt   int64          `json:"expires_at"`
}

// hexBytes are written in the one way that both databases can read. Nil is null.
type hexBytes []byte

func (b hexBytes) MarshalJSON() ([]byte, error) {
	if b == nil {
		return []byte("null"), nil
	}
	return append(hex.AppendEncode([]byte{'"'}, b), '"'), nil
}

func (s *Store) rowOf(t consumer.Transition) row {
	o := row{
		MessageID: database.Text(t.MessageID), Queue: database.Text(t.Queue), State: t.State, Attempt: min(max(t.Attempt, 0), math.MaxInt32), Redelivered: t.Redelivered,
		UpdatedAt: t.At.UnixMilli(), Percent: t.Percent, Progress: database.Text(t.Text), Reason: database.Text(t.Reason), Error: database.Text(t.Error), Ord: t.Order, Begins: t.First,
		ExpiresAt: t.At.Add(s.ttl).UnixMilli(),
	}
	if !t.Due.IsZero() {
		due := t.Due.UnixMilli()
		o.DueAt, o.ExpiresAt = &due, max(o.ExpiresAt, t.Due.Add(s.ttl).UnixMilli())
	}
	if t.State == consumer.Succeeded {
		o.ResultType, o.Result, o.ResultBytes = database.Text(t.Result.ContentType), t.Result.Body, len(t.Result.Body)
		if o.ResultBytes > maxResultBytes {
			o.Result = nil
		}
	}
	return o
}

func (o row) key() key { return key{o.MessageID, o.Queue} }

// follows tells whether o replaces what is known: a later state of the same life, or the
// beginning of another. The statement insertStates says the same to the database.
//
// Whatever the order of the state before says, it does not outlast the beginning of a
// life: orders come from headers, which a publisher can forge.
func (o row) follows(before row) bool {
	begins := o.Begins && (before.State == consumer.Dead || o.State != consumer.Accepted) && o.UpdatedAt > before.UpdatedAt+newLifeAfter.Milliseconds()
	return o.Ord > before.Ord || o.Ord == before.Ord && o.UpdatedAt >= before.UpdatedAt || begins
}
