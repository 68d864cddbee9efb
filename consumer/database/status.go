package database

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/warrenmq/warren/consumer"
)

const (
	// gatherFor is how long transitions are gathered for one statement.
	gatherFor = 20 * time.Millisecond
	// retryEvery is how long after a failed statement the next is tried, and dropAfter
	// how many fail in a row until what they would have written is dropped.
	retryEvery = time.Second
	dropAfter  = 10
	// Bounds of one statement, and of what waits for it.
	statementRows, statementBytes = 500, 1 << 20
	pendingRows, pendingBytes     = 10_000, 16 << 20
	// newLifeAfter is how long after the last state of a message it can begin a new life:
	// the clocks of two daemons may differ by as much.
	newLifeAfter = time.Second
	// warnEvery is how often at most it is logged that states come too fast.
	warnEvery = time.Minute
	// maxResultBytes is the longest result that is kept.
	maxResultBytes = 256 << 10

	// askingConnections is how many requests may use the database at once.
	askingConnections = 4

	writeTimeout  = 5 * time.Second
	acceptTimeout = time.Second
	// lastWriteTimeout is that of a daemon that is stopping.
	lastWriteTimeout = time.Second
)

// A Status keeps where messages stand. It is told as a [consumer.Observer], which
// never waits for the database: transitions are gathered and written together, and
// dropped while the database is away for long. It may be used by any number of
// goroutines.
type Status struct {
	d           *Database
	ttl         time.Duration
	log         *slog.Logger
	transitions chan observed
	asking      chan struct{} // has room for so many requests as may have a connection
	bytes       atomic.Int64  // of the results that are not written yet
	overflow    atomic.Int64  // transitions dropped since it was logged last
	drops       metric.Int64Counter

	// Of Run.
	pending map[messageKey]observed
	fails   int // in a row
	dropped int // since the first of them
	since   time.Time
	warned  time.Time // of overflow
}

var _ consumer.Observer = (*Status)(nil)

// NewStatus makes the Status of a database, which keeps a state until so long after
// the last transition, or the attempt that is due. Zero means 7 days. Its metrics go
// to meters.
func (d *Database) NewStatus(ttl time.Duration, meters metric.MeterProvider) (*Status, error) {
	drops, err := meters.Meter("github.com/warrenmq/warren/consumer/database").Int64Counter("warren.status.dropped", metric.WithUnit("{transition}"),
		metric.WithDescription("States of messages that were not written, because the database was away or too slow."))
	if err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	drops.Add(context.Background(), 0)
	return &Status{
		d: d, ttl: cmp.Or(ttl, 7*24*time.Hour), log: d.log, drops: drops,
		transitions: make(chan observed, 4096), asking: make(chan struct{}, askingConnections), pending: make(map[messageKey]observed),
	}, nil
}

type messageKey struct{ id, queue string }

// observed is a transition as the database gets it.
type observed struct {
	MessageID   string         `json:"message_id"`
	Queue       string         `json:"queue"`
	State       consumer.State `json:"state"`
	Attempt     int            `json:"attempt"`
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

func (s *Status) observed(t consumer.Transition) observed {
	o := observed{
		MessageID: text(t.MessageID), Queue: text(t.Queue), State: t.State, Attempt: t.Attempt, UpdatedAt: t.At.UnixMilli(),
		Percent: t.Percent, Progress: text(t.Text), Reason: t.Reason, Error: text(t.Error), Ord: t.Order, Begins: t.First,
		ExpiresAt: t.At.Add(s.ttl).UnixMilli(),
	}
	if !t.Due.IsZero() {
		due := t.Due.UnixMilli()
		o.DueAt, o.ExpiresAt = &due, max(o.ExpiresAt, t.Due.Add(s.ttl).UnixMilli())
	}
	if t.State == consumer.Succeeded {
		o.ResultType, o.Result, o.ResultBytes = text(t.Result.ContentType), t.Result.Body, len(t.Result.Body)
		if o.ResultBytes > maxResultBytes {
			o.Result = nil
		}
	}
	return o
}

// text is s as both databases can hold it.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func (o observed) key() messageKey { return messageKey{o.MessageID, o.Queue} }

// Observe has t written soon. It never blocks.
func (s *Status) Observe(t consumer.Transition) {
	o := s.observed(t)
	if size := int64(len(o.Result)); size > 0 && s.bytes.Add(size) > pendingBytes {
		s.bytes.Add(-size)
		o.Result = nil // that the work is done is worth more
	}
	select {
	case s.transitions <- o:
	default:
		s.bytes.Add(-int64(len(o.Result)))
		s.overflow.Add(1)
		s.drops.Add(context.Background(), 1)
	}
}

// Accept writes at once that the message is in its queue. It blocks until that is
// done, for a second at most.
func (s *Status) Accept(ctx context.Context, queue, messageID string) error {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	end, err := s.ask(ctx)
	if err != nil {
		return err
	}
	defer end()
	return s.write(ctx, []observed{s.observed(consumer.Transition{
		Queue: queue, MessageID: messageID, State: consumer.Accepted, At: time.Now(), First: true,
	})})
}

// State returns where the message stands; false if nothing is known of it. Of a
// message-id in several queues, the latest state counts, unless queue names one.
func (s *Status) State(ctx context.Context, messageID, queue string) (consumer.MessageState, bool, error) {
	m := consumer.MessageState{Transition: consumer.Transition{MessageID: messageID}}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	end, err := s.ask(ctx)
	if err != nil {
		return m, false, err
	}
	defer end()
	var updated, due int64
	err = s.d.read.QueryRowContext(ctx, statusOf[s.d.place.dialect].state, text(messageID), queue).Scan(&m.Queue, &m.State, &m.Attempt, &updated, &due,
		&m.Percent, &m.Text, &m.Reason, &m.Error, &m.Result.ContentType, &m.Result.Body, &m.ResultBytes)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return m, false, nil
	case err != nil:
		return m, false, s.d.explain(err)
	}
	m.At = time.UnixMilli(updated)
	if due != 0 {
		m.Due = time.UnixMilli(due)
	}
	return m, true, nil
}

// ask blocks until one of the connections that requests may have is free, or ctx ends:
// however many ask, the deliveries have theirs.
func (s *Status) ask(ctx context.Context) (end func(), err error) {
	select {
	case s.asking <- struct{}{}:
		return func() { <-s.asking }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Run writes what is observed, and deletes what has expired, until ctx ends; then it
// writes what is left. It blocks until that is done, for about a second. All that it
// started has ended then.
func (s *Status) Run(ctx context.Context) {
	var cleaning sync.WaitGroup
	cleaning.Go(func() { s.clean(ctx) })
	defer cleaning.Wait()
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case o := <-s.transitions:
			if len(s.pending) == 0 {
				timer.Reset(gatherFor)
			}
			s.add(o)
			if len(s.pending) == statementRows && s.fails == 0 {
				timer.Reset(0)
			}
		case <-timer.C:
			s.writePending(ctx, writeTimeout)
			if len(s.pending) > 0 {
				timer.Reset(retryEvery)
			}
		case <-ctx.Done():
			for len(s.transitions) > 0 {
				s.add(<-s.transitions)
			}
			s.writePending(context.WithoutCancel(ctx), lastWriteTimeout)
			s.drop(len(s.pending))
			return
		}
	}
}

// add keeps o until it is written, unless something later is kept of the message.
func (s *Status) add(o observed) {
	before, there := s.pending[o.key()]
	if there && !o.follows(before) {
		o, before = before, o
	}
	o.Begins = o.Begins || there && before.Begins
	s.bytes.Add(-int64(len(before.Result)))
	if !there && len(s.pending) >= pendingRows {
		s.bytes.Add(-int64(len(o.Result)))
		s.drop(1)
		return
	}
	s.pending[o.key()] = o
}

// follows tells whether o replaces what is known, as the statements have it.
func (o observed) follows(before observed) bool {
	ended := before.State == consumer.Dead || before.State == consumer.Succeeded && o.State != consumer.Accepted
	return o.Ord > before.Ord || o.Ord == before.Ord && o.UpdatedAt >= before.UpdatedAt ||
		o.Begins && ended && o.UpdatedAt > before.UpdatedAt+newLifeAfter.Milliseconds()
}

// writePending writes what is pending, in statements within bounds. Several daemons
// may write the same messages: their order is the same for all, or they would wait
// for each other.
func (s *Status) writePending(ctx context.Context, timeout time.Duration) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	keys := slices.SortedFunc(maps.Keys(s.pending), func(a, b messageKey) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.queue, b.queue))
	})
	var rows []observed
	var size int
	for i, k := range keys {
		rows, size = append(rows, s.pending[k]), size+len(s.pending[k].Result)
		if i < len(keys)-1 && len(rows) < statementRows && size < statementBytes {
			continue
		}
		if err := s.write(bounded, rows); err != nil {
			if ctx.Err() == nil { // or it is written once more at the end
				s.failed(err)
			}
			return
		}
		for _, o := range rows {
			delete(s.pending, o.key())
			s.bytes.Add(-int64(len(o.Result)))
		}
		rows, size = rows[:0], 0
	}
	if s.fails > 0 {
		s.log.Info("the states of messages are written again", "failures", s.fails, "dropped", s.dropped, "duration", time.Since(s.since).Round(time.Millisecond))
		s.fails, s.dropped = 0, 0
	}
	if s.overflow.Load() > 0 && time.Since(s.warned) > warnEvery {
		s.warned = time.Now()
		s.log.Warn("states of messages come faster than the database takes them, some are dropped", "dropped", s.overflow.Swap(0))
	}
}

func (s *Status) write(ctx context.Context, rows []observed) error {
	batch, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	_, err = s.d.write.ExecContext(ctx, statusOf[s.d.place.dialect].observe, string(batch))
	return s.d.explain(err)
}

// failed takes note of a failed statement. What it would have written is kept for a
// while: a database that is started again is back soon.
func (s *Status) failed(err error) {
	if s.fails == 0 {
		s.since = time.Now()
		s.log.Warn("the states of messages cannot be written, the work goes on", "error", err)
	}
	if s.fails++; s.fails%dropAfter == 0 {
		s.drop(len(s.pending))
		for _, o := range s.pending {
			s.bytes.Add(-int64(len(o.Result)))
		}
		clear(s.pending)
	}
}

func (s *Status) drop(n int) {
	s.dropped += n
	s.drops.Add(context.Background(), int64(n))
}

// clean deletes what has expired, until ctx ends.
func (s *Status) clean(ctx context.Context) {
	for sleep(ctx, cleanEvery) {
		for more := true; more && ctx.Err() == nil; {
			n, err := s.cleanOnce(ctx, time.Now())
			more = err == nil && n == cleanBatch // what is wrong with the database, the writes tell
		}
	}
}

func (s *Status) cleanOnce(ctx context.Context, now time.Time) (int64, error) {
	r, err := s.d.write.ExecContext(ctx, statusOf[s.d.place.dialect].clean, now.UnixMilli(), cleanBatch)
	if err != nil {
		return 0, s.d.explain(err)
	}
	return r.RowsAffected()
}
