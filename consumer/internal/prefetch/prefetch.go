// Package prefetch finds how many deliveries a queue should have handed out at once: so
// many that its workers never wait for the broker, and so few that other machines get
// their share of the work.
package prefetch

import "time"

const (
	// Work is how much of it is kept at hand.
	Work = 100 * time.Millisecond
	// Most is how many deliveries that are at most, unless twice the concurrency is more:
	// beyond it, a consumer that does nothing gets no faster.
	Most = 250
	// Bytes is how much memory the bodies may take, unless those of twice the concurrency
	// take more.
	Bytes = 16 << 20

	// samples are how many deliveries are looked at before the first change, and about how
	// many the means are of later on.
	samples = 32
	// pace is the least time between two changes.
	pace = time.Second
	// calm is how long after it has become less it may become more again: deliveries that
	// take long now and then would change it all the time.
	calm = 30 * time.Second
)

// A Size is that of one queue.
type Size struct {
	concurrency, size int
	fixed             bool
	taken             int       // deliveries, up to samples
	took, bytes       float64   // means: seconds that a delivery held its slot, length of its body
	changed, shrunk   time.Time // when it did last
}

// New returns the Size of a queue that is worked by so many slots. It begins with size
// deliveries, and stays that unless it may vary.
func New(concurrency, size int, varies bool) *Size {
	return &Size{concurrency: concurrency, size: size, fixed: !varies}
}

// Most is how many deliveries can be handed out at once.
func (s *Size) Most() int {
	if s.fixed {
		return s.size
	}
	return max(2*s.concurrency, Most)
}

// Took takes note of a delivery that has held its slot for d.
func (s *Size) Took(d time.Duration, bytes int) {
	s.taken = min(s.taken+1, samples)
	s.took += (d.Seconds() - s.took) / float64(s.taken)
	s.bytes += (float64(bytes) - s.bytes) / float64(s.taken)
}

// At returns how many deliveries should be handed out at now. It changes rarely, and by
// half of what it was at least.
func (s *Size) At(now time.Time) int {
	wanted := s.wanted()
	switch {
	case s.fixed || s.taken < samples || now.Sub(s.changed) < pace:
		return s.size
	case wanted >= s.size+s.size/2 && now.Sub(s.shrunk) >= calm:
	case wanted <= s.size/2:
		s.shrunk = now
	default:
		return s.size
	}
	s.size, s.changed = wanted, now
	return s.size
}

// Mean is how long a delivery holds its slot.
func (s *Size) Mean() time.Duration { return time.Duration(s.took * float64(time.Second)) }

// wanted is twice the concurrency at least: as many as are worked, and as many that follow.
func (s *Size) wanted() int {
	wanted := float64(s.concurrency) * Work.Seconds() / max(s.took, 1e-6)
	if s.bytes > 0 {
		wanted = min(wanted, Bytes/s.bytes)
	}
	return max(2*s.concurrency, int(min(wanted, Most)))
}
