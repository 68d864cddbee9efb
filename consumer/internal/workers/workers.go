// Package workers keeps goroutines that work jobs. The stack of a new one would grow anew
// with each job: for deliveries of no work that was a tenth of a profile of the daemon.
package workers

import "sync"

// Workers work jobs, each at once: there are as many as there have been jobs at a time.
// One goroutine gives them out.
type Workers[J any] struct {
	work  func(J)
	jobs  chan J
	hired int
	all   sync.WaitGroup
}

// New makes Workers that call work for each job.
func New[J any](work func(J)) *Workers[J] {
	return &Workers[J]{work: work, jobs: make(chan J, 64)}
}

// Do has j worked, which is one of busy jobs that are not done yet, at most. It does not
// block for longer than it takes a worker that has done its job to ask for another one.
func (w *Workers[J]) Do(j J, busy int) {
	if w.hired < busy {
		w.hired++
		w.all.Go(w.run)
	}
	w.jobs <- j
}

// run works jobs until there are no more. If work ends the goroutine, another one takes
// its place.
func (w *Workers[J]) run() {
	ended := false
	defer func() {
		if !ended {
			w.all.Go(w.run)
		}
	}()
	for j := range w.jobs {
		w.work(j)
	}
	ended = true
}

// End says that there are no more jobs.
func (w *Workers[J]) End() { close(w.jobs) }

// Wait blocks until all workers have ended, after End.
func (w *Workers[J]) Wait() { w.all.Wait() }
