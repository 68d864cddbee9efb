package workers

import (
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
		for range 3 {
			for i := range 100 {
				w.Do(i, i+1)
			}
			for range 100 {
				<-done
			}
			for range 300 {
				w.Do(0, 1)
				<-done
			}
			synctest.Wait()
			if w.mu.Lock(); w.hired != 1 {
				t.Errorf("%d workers while one job is worked at a time, want 1", w.hired)
			}
			w.mu.Unlock()
		}
		time.Sleep(4 * spareFor)
		if w.mu.Lock(); w.hired != 0 {
			t.Errorf("%d workers while there is nothing to do, want none", w.hired)
		}
		w.mu.Unlock()
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
