// Package workers keeps goroutines that work jobs. The stack of a new one would grow anew
// with each job: for deliveries of no work that was a tenth of a profile of the daemon.
package workers

import (
	"sync"
	"sync/atomic"
	"time"
)

// spareFor is how long there are workers that no job needs. There may have been many while
// outcomes could not be published, and their jobs needed no slot.
const spareFor = time.Minute

// Workers work jobs, each at once: there are as many as there have been jobs at a time,
// not long ago. One goroutine gives them out.
type Workers[J any] struct {
	work  func(J)
	jobs  chan J
	given atomic.Int64 // jobs that no worker has yet
	all   sync.WaitGroup

	mu           sync.Mutex
	hired        int
	since        time.Time // the beginning of this spareFor
	most, before int       // the most jobs at a time in it, and in the one before
}

// New makes Workers that call work for each job.
func New[J any](work func(J)) *Workers[J] {
	return &Workers[J]{work: work, jobs: make(chan J, 64)}
}

// Do has j worked, which is one of busy jobs that are not done yet, at most. It does not
// block for longer than it takes a worker that has done its job to ask for another one.
func (w *Workers[J]) Do(j J, busy int) {
	w.reckon(busy)
	w.jobs <- j
}

// reckon sees to it that there is a worker for one more job.
func (w *Workers[J]) reckon(busy int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn()
	w.given.Add(1)
	w.most = max(w.most, busy)
	if w.hired < busy {
		w.hired++
		w.all.Go(w.run)
	}
}

// turn begins another spareFor when it is time.
func (w *Workers[J]) turn() {
	switch past := time.Since(w.since); {
	case past < spareFor:
		return
	case past < 2*spareFor:
		w.before = w.most
	default:
		w.before = 0
	}
	w.since, w.most = time.Now(), 0
}

// run works jobs until there are no more, or the worker is one too many. If work ends the
// goroutine, another one takes its place.
func (w *Workers[J]) run() {
	ended := false
	defer func() {
		if !ended {
			w.all.Go(w.run)
		}
	}()
	turns := time.NewTicker(spareFor)
	defer turns.Stop()
	for !ended {
		select {
		case j, more := <-w.jobs:
			if more {
				w.given.Add(-1)
				w.work(j)
			}
			ended = !more
		case <-turns.C:
			ended = w.leave()
		}
	}
}

// leave tells whether a worker ends that has no job: not if one has just been given out
// that counts on it.
func (w *Workers[J]) leave() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn()
	if w.given.Load() > 0 || w.hired <= max(w.most, w.before) {
		return false
	}
	w.hired--
	return true
}

// End says that there are no more jobs.
func (w *Workers[J]) End() { close(w.jobs) }

// Wait blocks until all workers have ended, after End.
func (w *Workers[J]) Wait() { w.all.Wait() }
