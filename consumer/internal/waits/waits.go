// Package waits says how long a message waits for its next attempt.
package waits

import (
	"fmt"
	"math"
	"time"
)

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

// Plan says how often a message is tried, and how long that takes beside the attempts
// themselves.
func Plan(base, most time.Duration, attempts int) string {
	if attempts == 1 {
		return "1 attempt"
	}
	const forever = time.Duration(math.MaxInt64)
	var all time.Duration
	for n := 1; n < attempts; n++ {
		d, times := Backoff(base, most, n), 1
		if d == most {
			times = attempts - n // all that follow are as long
		}
		if d > 0 && time.Duration(times) > (forever-all)/d {
			return fmt.Sprintf("%d attempts in more than a lifetime", attempts)
		}
		all += time.Duration(times) * d
		n += times - 1
	}
	return fmt.Sprintf("%d attempts within %v", attempts, all)
}
