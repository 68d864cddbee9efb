package workers

import (
	"bytes"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func TestJobsAreWorkedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		working, done := 0, make(chan int, 3)
		release := make(chan bool)
		w := New(func(j int) {
			<-release
			done <- j
		})
		for i := range 3 {
			working++
			w.Do(i, working)
		}
		synctest.Wait() // or a worker does not wait for its release
		for range 3 {
			release <- true
			<-done
			working--
		}
		for i := range 10 {
			w.Do(i, 1)
			release <- true
			if got := <-done; got != i {
				t.Errorf("job %d was worked, want %d", got, i)
			}
		}
		if w.hired != 3 {
			t.Errorf("%d workers, want one for each job at a time, 3", w.hired)
		}
		w.End()
		w.Wait()
	})
}

// TestIdleWorkersEnd gives out many jobs at a time, then one now and then.
func TestIdleWorkersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan int)
		w := New(func(j int) {
			time.Sleep(time.Second) // of the test's own time
			done <- j
		})
		stacks := make([]byte, 1<<20)
		workers := func(want int) {
			t.Helper()
			synctest.Wait()
			// NumGoroutine counts one that has ended for a moment.
			if got := bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("Workers[...]).run(")); w.hired != want || got != want {
				t.Errorf("%d workers, and %d that count, want %d", got, w.hired, want)
			}
		}
		for range 3 {
			for i := range 100 {
				w.Do(i, i+1)
				w.Turn(i + 1)
			}
			workers(100)
			for range 100 {
				<-done
			}
			for range 300 {
				w.Do(0, 1)
				w.Turn(1)
				<-done
			}
			workers(1)
		}
		for range 3 {
			time.Sleep(spareFor)
			w.Turn(0)
		}
		workers(0)
		w.End()
		w.Wait()
	})
}

// TestBusyWorkersStay has jobs that take longer than spareFor.
func TestBusyWorkersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan int)
		w := New(func(j int) { done <- j })
		for i := range 100 {
			w.Do(i, i+1)
		}
		for range 5 {
			time.Sleep(spareFor)
			w.Turn(100)
		}
		synctest.Wait()
		w.Do(100, 101)
		for range 101 {
			<-done
		}
		if w.hired != 101 {
			t.Errorf("%d workers, want one for each job at a time, 101", w.hired)
		}
		w.End()
		w.Wait()
	})
}

// TestAWorkerThatEndsIsReplaced has work end its goroutine, as a test's FailNow does.
func TestAWorkerThatEndsIsReplaced(t *testing.T) {
	done := make(chan int, 1)
	w := New(func(j int) {
		defer func() { done <- j }()
		if j%2 == 0 {
			runtime.Goexit()
		}
	})
	for i := range 100 {
		w.Do(i, 1)
		<-done
	}
	w.End()
	w.Wait()
}
