package consumer

import (
	"math/bits"
	"strconv"
	"time"
)

// waitPrefix begins the name of every wait queue and its exchange.
const waitPrefix = "warren.wait."

// shortestWait is the shortest wait that a message spends in the broker; a
// shorter one is waited in the process.
const shortestWait = time.Second

// waitSlack is how much too long a wait queue may be: a wait of 4 s is no longer
// quite that when its message is published.
const waitSlack = 10 * time.Millisecond

// backoff is the delay before the attempt that follows so many made: base after
// the first, then twice as long each time, at most cap.
func backoff(base, most time.Duration, attempts int) time.Duration {
	d := base
	for range attempts - 1 {
		if d >= most {
			break
		}
		d *= 2
	}
	return min(d, most)
}

// waitStep is the longest wait queue that is longer neither than d nor than
// longest; for a shorter d, the shortest there is.
func waitStep(d, longest time.Duration) time.Duration {
	seconds := uint64(max(min(d, longest), shortestWait) / time.Second)
	return time.Second << (bits.Len64(seconds) - 1)
}

// waitSteps are the waits of all wait queues, shortest first: the powers of two
// of a second up to longest.
func waitSteps(longest time.Duration) []time.Duration {
	var steps []time.Duration
	for d := shortestWait; d <= longest || d == shortestWait; d *= 2 {
		steps = append(steps, d)
	}
	return steps
}

// waitName names the queue, and the exchange before it, in which a message waits
// for d.
func waitName(d time.Duration) string {
	return waitPrefix + strconv.FormatInt(int64(d/time.Second), 10) + "s"
}
