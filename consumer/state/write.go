package state

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/internal/failpoint"
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

	cleanEvery = time.Minute
	cleanBatch = 1000 // rows: so few that nobody waits for them

	writeTimeout = 5 * time.Second
	// lastWriteTimeout is that of a daemon that is stopping.
	lastWriteTimeout = time.Second
)

// Run writes what is observed, and deletes what has expired, until ctx ends; then it
// writes what is left. It blocks until that is done, for about a second. All that it
// started has ended then.
func (s *Store) Run(ctx context.Context) {
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
func (s *Store) add(o row) {
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

// writePending writes what is pending, in statements within bounds. Several daemons
// may write the same messages: their order is the same for all, or they would wait
// for each other.
func (s *Store) writePending(ctx context.Context, timeout time.Duration) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	keys := slices.SortedFunc(maps.Keys(s.pending), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.queue, b.queue))
	})
	var rows []row
	var size int
	for i, k := range keys {
		rows, size = append(rows, s.pending[k]), size+len(s.pending[k].Result)
		if i < len(keys)-1 && len(rows) < statementRows && size < statementBytes {
			continue
		}
		if err := s.writeBatch(bounded, rows); err != nil {
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
	s.fails = 0
	s.outage.End(s.log, "the states of messages are written again")
	if s.overflow.Load() > 0 && time.Since(s.warned) > warnEvery {
		s.warned = time.Now()
		s.log.Warn("states of messages come faster than the database takes them, some are dropped", "dropped", s.overflow.Swap(0))
	}
}

// writeBatch writes rows in one statement or, if the database objects to what is in one
// of them, each in a statement of its own: no message keeps the others from being
// written.
func (s *Store) writeBatch(ctx context.Context, rows []row) error {
	err := s.write(ctx, rows)
	if !database.IsDataFault(err) {
		return err
	}
	for _, r := range rows {
		err := s.write(ctx, []row{r})
		if database.IsDataFault(err) {
			s.log.Warn("the state of a message cannot be written", "queue", r.Queue, "message_id", r.MessageID, "error", err)
			s.drop(1)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) write(ctx context.Context, rows []row) error {
	batch, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	if err = failpoint.Error(failpoint.StatesGathered); err == nil {
		_, err = s.db.Exec(ctx, insertStates, string(batch))
	}
	return cmp.Or(err, failpoint.Error(failpoint.StatesWritten))
}

// failed takes note of a failed statement. What it would have written is kept for a
// while: a database that is started again is back soon.
func (s *Store) failed(err error) {
	s.outage.Begin(s.log, slog.LevelWarn, "the states of messages cannot be written, the work goes on", err)
	if s.fails++; s.fails%dropAfter == 0 {
		s.drop(len(s.pending))
		for _, o := range s.pending {
			s.bytes.Add(-int64(len(o.Result)))
		}
		clear(s.pending)
	}
}

func (s *Store) drop(n int) {
	s.drops.Add(context.Background(), int64(n))
}

// clean deletes what has expired, until ctx ends.
func (s *Store) clean(ctx context.Context) {
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for more := true; more && ctx.Err() == nil; {
			n, err := s.cleanOnce(ctx, time.Now())
			more = err == nil && n == cleanBatch // what is wrong with the database, the writes tell
		}
	}
}

func (s *Store) cleanOnce(ctx context.Context, now time.Time) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return s.db.Exec(ctx, deleteExpired, now.UnixMilli(), cleanBatch)
}
