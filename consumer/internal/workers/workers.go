// Package workers keeps goroutines that work jobs. The stack of a new one would grow anew
// with each job: for deliveries of no work that was a tenth of a profile of the daemon.
package workers

import (
	"sync"
	"time"
)

// spareFor is how long there are workers that no job needs, twice at most. There may have
// been many while outcomes could not be published, and their jobs needed no slot.
const spareFor = time.Minute

// Workers work jobs, each at once: there are as many as there have been jobs at a time,
// not long ago. One goroutine uses them.
type Workers[J any] struct {
	work   func(J)
	orders chan order[J]
	all    sync.WaitGroup

	hired int
	since time.Time // the beginning of this spareFor
	most  int       // the most jobs at a time in it
}

// An order is to work a job or, without one, to leave: workers wait for one channel, which
// costs less than to wait for two.
type order[J any] struct {
	job  J
	work bool
}

// New makes Workers that call work for each job.
func New[J any](work func(J)) *Workers[J] {
	return &Workers[J]{work: work, orders: make(chan order[J], 64), since: time.Now()}
}

// Do has j worked, which is one of busy jobs that are not done yet, at most. It does not
// block for longer than it takes a worker that has done its job to ask for another one.
func (w *Workers[J]) Do(j J, busy int) {
	w.most = max(w.most, busy)
	if w.hired < busy {
		w.hired++
		w.all.Go(w.run)
	}
	w.orders <- order[J]{j, true}
}

// Turn is to be called now and then, with how many jobs are not done yet, at most. It lets
// workers go that no job has needed for a while, and does not block.
func (w *Workers[J]) Turn(busy int) {
	if time.Since(w.since) < spareFor {
		return
	}
	for w.hired > max(w.most, busy) {
		select {
		case w.orders <- order[J]{}:
			w.hired--
		default: // they are busy
			return
		}
	}
	w.since, w.most = time.Now(), busy
}

// run works jobs until it is to leave. If work ends the goroutine, another one takes its
// place.
func (w *Workers[J]) run() {
	left := false
	defer func() {
		if !left {
			w.all.Go(w.run)
		}
	}()
	for o := range w.orders {
		if !o.work {
			break
		}
		w.work(o.job)
	}
	left = true
}

// End says that there are no more jobs.
func (w *Workers[J]) End() { close(w.orders) }

// Wait blocks until all workers have ended, after End.
func (w *Workers[J]) Wait() { w.all.Wait() }
