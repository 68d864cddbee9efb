// Package pulse tells a loop that is stuck from one that has nothing to do.
package pulse

import (
	"math"
	"sync/atomic"
	"time"
)

// Every is how often a loop shows that it makes progress.
const Every = 5 * time.Second

// StuckAfter is how long a loop may go without a turn. What it waits for the broker for
// is over when the heartbeats of the connection have failed, after 20 s.
const StuckAfter = time.Minute

// A Pulse is when a loop last had a turn, for other goroutines to look at. Zero is one
// of a loop that has not begun.
type Pulse struct{ at atomic.Int64 } // Unix nanoseconds

// Beat says that the loop has had a turn.
func (p *Pulse) Beat(now time.Time) { p.at.Store(now.UnixNano()) }

// End says that nothing is expected of the loop any more.
func (p *Pulse) End() { p.at.Store(math.MaxInt64) }

// Stuck is how long the loop has been stuck at now; zero if it is not.
func (p *Pulse) Stuck(now time.Time) time.Duration {
	at := p.at.Load()
	if at == 0 {
		return 0
	}
	if since := now.Sub(time.Unix(0, at)); since > StuckAfter {
		return since
	}
	return 0
}
