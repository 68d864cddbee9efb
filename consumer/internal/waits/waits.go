// Package waits says how long a message waits for its next attempt.
package waits

import "time"

// Backoff is the delay before the attempt that follows so many made: base after the
// first, then twice as long each time, at most most.
func Backoff(base, most time.Duration, attempts int) time.Duration {
	d := base
	for range attempts - 1 {
		if d >= most {
			break
		}
		d *= 2
	}
	return min(d, most)
}

// Outage is the wait after the n-th attempt in a row that failed for want of what
// it depends on. The first are spent in the slot: a database that is started again is
// back soon, and one that is not must not have the whole queue moved to and fro.
func Outage(n int) time.Duration {
	if n <= 2 {
		return time.Duration(n) * 300 * time.Millisecond
	}
	return 4 * time.Second
}
